"""What is said where nobody in the fleet can do the work: no service, no such backend."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

__all__ = ["no_service", "not_installed", "too_few_devices", "unknown_backend", "unknown_engine"]


def no_service(kind: str) -> TunefleetError:
    """Return the refusal where no service of a kind is attached."""
    return TunefleetError(
        Reason.UNAVAILABLE,
        f"No {kind} service is attached.",
        hint="Start the fleet with `tunefleet up`, or look at `tunefleet fleet list`.",
    )


def unknown_backend(name: str, services: Sequence[Service]) -> TunefleetError:
    """Return the refusal of a backend that nobody has; a likely slip of the pen is named."""
    if not name:
        return not_installed("trl", "", "")
    known = sorted({item.manifest.name for service in services for item in service.backends})
    return not_installed(name, *_near(name, known, field="backend"))


def unknown_engine(name: str, known: Sequence[str]) -> TunefleetError:
    """Return the refusal of an engine that no server has; without a name, of any."""
    why, hint = _near(name, sorted(set(known)), field="engine") if name else ("", "")
    fact = f"No server of the fleet has the engine '{name}'" if name else "No server has an engine"
    return TunefleetError(
        Reason.BACKEND_NOT_INSTALLED,
        f"{fact}: {why}" if why else f"{fact}.",
        hint=hint or "tunefleet plugins install embedded",
        metadata={"backend": name or "embedded"},
    )


def _near(name: str, known: Sequence[str], *, field: str) -> tuple[str, str]:
    """Return a question and a next step that name what there is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return (
            f"did you mean '{near[0]}'?",
            f"Write `{field}: {near[0]}`; the fleet has {', '.join(known)}.",
        )
    has = f", or write one that the fleet has: {', '.join(known)}." if known else ""
    return "", f"tunefleet plugins install {name}{has}"


def not_installed(name: str, error: str, hint: str) -> TunefleetError:
    """Return the refusal of a backend that no trainer has, or that is broken everywhere."""
    why = f": {error}" if error else "."
    return TunefleetError(
        Reason.BACKEND_NOT_INSTALLED,
        f"No trainer of the fleet has a usable backend '{name}'{why}",
        hint=hint or f"tunefleet plugins install {name}",
        metadata={"backend": name},
    )


def too_few_devices(wanted: int, most: int, manifest: BackendManifest) -> TunefleetError:
    """Return the refusal where no trainer has as many devices as a job asks for."""
    kinds = " or ".join(manifest.device_kinds)
    has = f"the best trainer of the fleet has {most}" if most else "no trainer of the fleet has one"
    cpu = " A trainer on processors offers TUNEFLEET_CPU_DEVICES of them." if "cpu" in kinds else ""
    return TunefleetError(
        Reason.FIELD_INVALID,
        f"resources.devices: asks for {wanted} on one host ({kinds}), and {has}.",
        hint=f"Set resources.devices to {max(1, most)}, or start a trainer on a larger host.{cpu}",
        metadata={"field": "resources.devices", "backend": manifest.name, "most": str(most)},
        violations=(FieldViolation(field="resources.devices", description=f"is at most {most} here"),),
    )
