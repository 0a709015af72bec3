"""Where a job is looked at and may run: a trainer, and the backend on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_coordinator.nobody import no_service, not_installed, too_few_devices, unknown_backend
from tunefleet_core.backend import has_capability, require_capabilities
from tunefleet_core.errors import TunefleetError
from tunefleet_core.resolve import ChosenBackend

__all__ = ["Place", "choose_place"]

_ACTIVE = "ACTIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A service and the backend on it that will be asked."""

    service: str
    backend: ChosenBackend


def choose_place(spec: JobSpec, services: Sequence[Service]) -> Place:
    """Choose the backend: the one named, else one that does the job and reads rows, with devices enough.

    Of several the one made for the devices of its host, and then the one that can do more. Where none
    does the job, one that would read its rows: what is resolved next says what it lacks.

    Raises:
        TunefleetError: UNAVAILABLE, BACKEND_NOT_INSTALLED, FIELD_INVALID (`resources.devices`).
    """
    refusal: TunefleetError | None = None
    trainer: Service | None = None
    unable: Place | None = None
    most = 0
    for service in services:
        if service.kind != ServiceKind.SERVICE_KIND_TRAINER:
            continue
        trainer = service
        named = [item for item in service.backends if spec.backend in ("", item.manifest.name)]
        if len(named) > 1:
            named.sort(key=lambda item: _fitness(service, item.manifest))
        for installed in named:
            manifest = installed.manifest
            if not spec.backend and not has_capability(manifest, Capability.CAPABILITY_INSPECT):
                continue  # one that cannot read rows trains blindly: only when asked for by name
            if installed.status != _ACTIVE:
                refusal = not_installed(spec.backend or manifest.name, installed.error, installed.hint)
                continue
            kind, sizes = _usable(service, manifest)
            most = max(most, len(sizes))
            if spec.resources.devices > max(1, len(sizes)):
                refusal = too_few_devices(spec.resources.devices, most, manifest)
                continue
            place = Place(
                service=service.name,
                backend=ChosenBackend(
                    manifest=manifest,
                    environment_digest=installed.environment_digest,
                    device_kind=kind,
                    memory_bytes=min(sizes, default=0),  # which of them it gets is not known yet
                ),
            )
            if spec.backend or _does(spec, manifest):
                return place
            unable = unable or place
    if trainer is None:
        raise no_service("trainer")
    if unable is not None:
        return unable
    raise refusal or unknown_backend(spec.backend, services)


def _does(spec: JobSpec, manifest: BackendManifest) -> bool:
    try:
        require_capabilities(spec, manifest)
    except TunefleetError:
        return False
    return True


def _fitness(service: Service, manifest: BackendManifest) -> tuple[int, int]:
    """Return how well a host suits a backend, least best: which of its devices, in its order, is there.

    One that is made for Apple machines and also works on a CPU does not take the jobs of a host
    whose CPU another one is made for.
    """
    there = {device.kind for device in service.host.devices}
    kinds = list(manifest.device_kinds)
    missing = next((index for index, kind in enumerate(kinds) if kind in there), len(kinds))
    return missing, -len(manifest.capabilities)


def _usable(service: Service, manifest: BackendManifest) -> tuple[str, list[int]]:
    """Return the kind of device a backend would use on a service, and the memory of each in bytes."""
    usable = [device for device in service.host.devices if device.kind in manifest.device_kinds]
    kind = usable[0].kind if usable else ""
    return kind, [device.memory_bytes for device in usable if device.kind == kind]
