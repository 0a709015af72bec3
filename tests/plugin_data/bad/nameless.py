"""Returns a manifest nobody can ask for."""

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.plugins import hookimpl


@hookimpl
def tunefleet_backends():
    return [BackendManifest(name="No Name!", contract_version=CONTRACT_VERSION)]
