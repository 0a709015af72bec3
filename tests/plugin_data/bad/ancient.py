"""Speaks a contract that is not ours."""

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core.plugins import hookimpl


@hookimpl
def tunefleet_backends():
    return [BackendManifest(name="ancient", contract_version=0, plugin="ancient==1.0")]
