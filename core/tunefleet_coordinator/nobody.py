"""What is said where nobody in the fleet can do the work: no service, no such backend."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["no_service", "not_installed", "unknown_backend"]


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
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:
        return not_installed(name, "", "")
    return not_installed(
        name, f"did you mean '{near[0]}'?", f"Write `backend: {near[0]}`; the fleet has {', '.join(known)}."
    )


def not_installed(name: str, error: str, hint: str) -> TunefleetError:
    """Return the refusal of a backend that no trainer has, or that is broken everywhere."""
    why = f": {error}" if error else "."
    return TunefleetError(
        Reason.BACKEND_NOT_INSTALLED,
        f"No trainer of the fleet has a usable backend '{name}'{why}",
        hint=hint or f"tunefleet plugins install {name}",
        metadata={"backend": name},
    )
