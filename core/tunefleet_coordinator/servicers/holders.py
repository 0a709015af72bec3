"""What a service of another machine says of an attempt counts only if it holds the attempt."""

from __future__ import annotations

from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.security import current_principal
from tunefleet_core.lifecycle import AttemptRow, World

__all__ = ["require_holder"]


async def require_holder(kernel: Kernel, job_uid: str, attempt: int) -> None:
    """Refuse a service that speaks for the attempt of another.

    One of this machine may: all of them have the same token. An attempt that is not known is left to
    the core, which answers FENCED.

    Raises:
        TunefleetError: PERMISSION_DENIED.
    """
    principal = current_principal()
    if not principal.service:
        return

    def row(world: World) -> AttemptRow | None:
        return world.attempt(job_uid, attempt)

    held = await kernel.observe(row)
    if held is not None:
        principal.require_service(held.service)
