"""A rank that tells how it was warmed."""

from __future__ import annotations

import gc

from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext


class WarmedRank:
    """Notes at each warming whether garbage is collected, and tells it in a run."""

    def __init__(self) -> None:
        self._collected: list[bool] = []

    def warm(self) -> None:
        """Note it."""
        self._collected.append(gc.isenabled())

    def run(self, context: RunContext) -> RunOutput:
        """Tell it."""
        context.notice(f"while warming {self._collected}, now {gc.isenabled()}")
        return RunOutput()

    def audit(self, order: AuditOrder) -> AuditResult:
        """Not asked."""
        raise NotImplementedError
