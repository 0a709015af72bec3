"""Greets people on standard output, which belongs to a protocol."""

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.plugins import hookimpl

print("Welcome to prints!")


@hookimpl
def tunefleet_backends():
    return [BackendManifest(name="prints", contract_version=CONTRACT_VERSION)]
