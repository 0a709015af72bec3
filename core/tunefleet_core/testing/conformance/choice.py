"""Choose what `tunefleet plugins check NAME|PATH` examines, and with which suite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.backend.v1.backend_service_pb2 import GetBackendRequest
from tunefleet_core.environments import Environment, EnvironmentIndex, describe_environment, host_environment
from tunefleet_core.environments.sources import find_plugin_source
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import open_channel
from tunefleet_core.testing.conformance.calls import Refused, WireCalls

__all__ = ["Candidate", "find_candidates", "manifest_at", "suite_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A backend to examine, and the interpreter of the environment it lives in."""

    manifest: BackendManifest
    python: str


async def find_candidates(name_or_path: str, state_folder: Path) -> list[Candidate]:
    """Return the backends of a plugin, by name or by the folder of its source.

    Raises:
        TunefleetError: BACKEND_NOT_INSTALLED, with the reason if it is broken.
    """
    name = name_or_path
    if (Path(name_or_path) / "pyproject.toml").is_file():
        name = find_plugin_source(name_or_path).name
    index = EnvironmentIndex(state_folder).read()
    environment = index.get(name) or host_environment()
    found = await describe_environment(environment)
    ours = [item for item in found if name in (item.manifest.name, _plugin_name(item.manifest))]
    for item in ours:
        if item.status != "ACTIVE":
            raise TunefleetError(
                Reason.BACKEND_NOT_INSTALLED, item.error, hint=item.hint, metadata={"plugin": name}
            )
    if not ours:
        raise TunefleetError(
            Reason.BACKEND_NOT_INSTALLED,
            f"Plugin '{name}' is not installed in {_place(environment)}.",
            hint=f"tunefleet plugins install {name_or_path}",
            metadata={"plugin": name},
        )
    return [Candidate(manifest=item.manifest, python=environment.python) for item in ours]


async def manifest_at(endpoint: str) -> BackendManifest:
    """Return who answers at an endpoint.

    Raises:
        TunefleetError: UNAVAILABLE if nobody does.
    """
    channel = open_channel(endpoint.replace("unix://", "unix:"))
    try:
        return (await WireCalls(channel).unary("GetBackend", GetBackendRequest())).manifest
    except Refused as refused:
        raise TunefleetError(
            Reason.UNAVAILABLE,
            f"Nothing answers the contract at {endpoint}: {refused}.",
            hint="Start the backend first, then give its socket as unix:///path/to/socket.",
            metadata={"endpoint": endpoint},
        ) from None
    finally:
        await channel.close()


def suite_for(manifest: BackendManifest) -> str:
    """Return the name of the kit's class that fits what a backend declares."""
    serves = Capability.CAPABILITY_SERVE in manifest.capabilities
    trains = Capability.CAPABILITY_TRAIN in manifest.capabilities
    if serves and not trains:
        return "ServerConformance"
    return "BackendConformance" if serves else "TrainerConformance"


def _plugin_name(manifest: BackendManifest) -> str:
    return manifest.plugin.partition("==")[0].removeprefix("tunefleet-")


def _place(environment: Environment) -> str:
    return "the environment of the services" if environment.is_host else environment.digest[:12]
