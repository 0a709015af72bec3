"""Choose who writes an export in a format, and who merges the adapter before."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend, Service, ServiceKind
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_coordinator.nobody import no_service
from tunefleet_core.backend import has_capability
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve import ChosenBackend

__all__ = ["Exporter", "find_exporter"]

_FIELD = "export.quantize.format"
_ACTIVE = "ACTIVE"
_PLUGINS = {"gguf": "gguf", "mlx": "mlx"}
_USUAL_PLUGIN = "compress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """A trainer with the backend that writes the format; `merge_backend` is None if it merges none."""

    service: str
    backend: ChosenBackend
    merge_backend: ChosenBackend | None = None


def find_exporter(
    spec: JobSpec,
    services: Sequence[Service],
    *,
    merged_by: str,
    model_type: str = "",
    known: Sequence[str] = (),
) -> Exporter:
    """Return the first trainer that has both, or the backend that was asked for by name.

    Args:
        spec: A valid spec with `export.quantize`.
        services: The services that are attached.
        merged_by: The backend that trained the adapter and can merge it; empty for a whole model.
        model_type: Of the model; empty: unknown. Who writes the format for this type alone comes first.
        known: Formats that plugins describe, whether any backend writes them or not.

    Raises:
        TunefleetError: UNAVAILABLE without a trainer, FIELD_INVALID for a format that nobody
            knows with the nearest that is written, BACKEND_NOT_INSTALLED for one that no
            trainer writes, CAPABILITY_UNSUPPORTED if the backend asked for does not, or if the
            one that trained the adapter merges none.
    """
    trainers = [item for item in services if item.kind == ServiceKind.SERVICE_KIND_TRAINER]
    if not trainers:
        raise no_service("trainer")
    asked = spec.export.quantize.format
    writers = [(service, item) for service in trainers for item in _writers(service, asked, model_type)]
    writers.sort(key=lambda writer: not _scope(writer[1], asked))
    if spec.backend:
        writers = [(service, item) for service, item in writers if item.manifest.name == spec.backend]
    if not writers:
        raise _nobody_writes(spec, trainers, known, model_type=model_type)
    if merged_by:
        _require_merger(merged_by, trainers, asked)
    for service, item in writers:
        if not merged_by:
            return Exporter(service=service.name, backend=_chosen(item, service))
        merger = _merger(service, merged_by)
        if merger is not None and merger.manifest.name == item.manifest.name:
            return Exporter(service=service.name, backend=_chosen(item, service))
        if merger is not None:
            return Exporter(
                service=service.name,
                backend=_chosen(item, service),
                merge_backend=_chosen(merger, service),
            )
    raise TunefleetError(
        Reason.BACKEND_NOT_INSTALLED,
        f"The adapter is merged by '{merged_by}' before it is written as {asked}, and no trainer has both "
        f"'{merged_by}' and '{writers[0][1].manifest.name}'.",
        hint=f"On the trainer that writes {asked}: tunefleet plugins install {merged_by}",
        metadata={"backend": merged_by, "format": asked},
    )


def _active(service: Service) -> Iterator[InstalledBackend]:
    return (item for item in service.backends if item.status == _ACTIVE)


def _writers(service: Service, asked: str, model_type: str) -> Iterator[InstalledBackend]:
    for item in _active(service):
        is_writer = has_capability(item.manifest, Capability.CAPABILITY_QUANTIZE)
        is_for_type = not model_type or model_type in (_scope(item, asked) or (model_type,))
        if is_writer and is_for_type and asked in item.manifest.exported_formats:
            yield item


def _scope(item: InstalledBackend, asked: str) -> Sequence[str]:
    """Return the only types of model that a backend writes a format for; empty: every one."""
    return [
        name for scope in item.manifest.exported_scopes if scope.format == asked for name in scope.model_types
    ]


def _merger(service: Service, name: str) -> InstalledBackend | None:
    for item in _active(service):
        if item.manifest.name == name and has_capability(item.manifest, Capability.CAPABILITY_MERGE):
            return item
    return None


def _require_merger(name: str, trainers: Sequence[Service], asked: str) -> None:
    """Refuse an adapter whose backend is here but cannot merge it into its base."""
    known = [item for service in trainers for item in _active(service) if item.manifest.name == name]
    if not known or any(has_capability(item.manifest, Capability.CAPABILITY_MERGE) for item in known):
        return
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"'{name}' trained this adapter and merges none into its base, which comes before writing {asked}.",
        hint="Serve it as an adapter: tunefleet deploy MODEL. Or train it in full, or on another backend.",
        metadata={"backend": name, "capability": "MERGE", "format": asked},
    )


def _chosen(item: InstalledBackend, service: Service) -> ChosenBackend:
    kinds = [device.kind for device in service.host.devices if device.kind in item.manifest.device_kinds]
    return ChosenBackend(
        manifest=item.manifest,
        environment_digest=item.environment_digest,
        device_kind=kinds[0] if kinds else "",
    )


def _nobody_writes(
    spec: JobSpec, trainers: Sequence[Service], known: Sequence[str], *, model_type: str
) -> TunefleetError:
    """Return the refusal of a format: misspelt, not of the backend asked for, or not installed."""
    asked = spec.export.quantize.format
    installed = [item for service in trainers for item in _active(service)]
    written = sorted({name for item in installed for name in item.manifest.exported_formats})
    # Some write a format for some types of model only: then the type is why nobody does.
    of_type = f" for models of the type '{model_type}'" if asked in written and model_type else ""
    if spec.backend and any(item.manifest.name == spec.backend for item in installed):
        others = sorted({i.manifest.name for s in trainers for i in _writers(s, asked, model_type)})
        return TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED,
            f"The backend '{spec.backend}' does not write the format '{asked}'{of_type}.",
            hint=f"Leave the backend out, or name {' or '.join(others)}." if others else _install(asked),
            metadata={"backend": spec.backend, "capability": "QUANTIZE", "format": asked},
        )
    if asked in known or asked in written or asked in _PLUGINS or spec.backend:
        return TunefleetError(
            Reason.BACKEND_NOT_INSTALLED,
            f"No trainer of the fleet has a backend that writes '{asked}'{of_type}.",
            hint=_install(asked, backend=spec.backend),
            metadata={"backend": spec.backend or _PLUGINS.get(asked, _USUAL_PLUGIN), "format": asked},
        )
    near = difflib.get_close_matches(asked.lower(), sorted({*written, *known}), n=1, cutoff=0.5)
    nearest = f"; did you mean '{near[0]}'?" if near else ""
    can = f"The fleet writes {', '.join(written)}." if written else _install(asked)
    return TunefleetError.field(
        _FIELD, f"no backend of the fleet writes the format '{asked}'{nearest}", hint=can
    )


def _install(asked: str, *, backend: str = "") -> str:
    return f"tunefleet plugins install {backend or _PLUGINS.get(asked, _USUAL_PLUGIN)}"
