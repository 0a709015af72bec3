"""Questions that the coordinator asks its services while it resolves a job.

The coordinator may not load a tokenizer, and a base may lie on another machine. So
a question joins the desired set of a service until it is answered or given up.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from tunefleet.fleet.v1.fleet_pb2 import AuditQuestion, BaseQuestion, Inspection, InspectionAnswer
from tunefleet_core.errors import Reason, TunefleetError, error_from_status

__all__ = ["InspectionBroker"]

_LIMIT_SECONDS = 100.0


class InspectionBroker:
    """Open questions by service."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed  # told the service whose desired set changed
        self._open: dict[str, dict[str, Inspection]] = {}
        self._answers: dict[str, asyncio.Future[InspectionAnswer]] = {}

    def questions_for(self, service: str) -> list[Inspection]:
        """Return the open questions to a service."""
        return list(self._open.get(service, {}).values())

    def answer(self, answer: InspectionAnswer, *, service: str = "") -> None:
        """Take an answer; one that nobody waits for any more, or that another was asked for, is dropped.

        Args:
            answer: To one of the open questions.
            service: Who answers; empty: any service of this machine.
        """
        if service and answer.id not in self._open.get(service, {}):
            return
        future = self._answers.get(answer.id)
        if future is not None and not future.done():
            future.set_result(answer)

    async def ask_base(self, service: str, question: BaseQuestion) -> InspectionAnswer:
        """Return the facts of a model folder. Raises what the service answered, or TIME_LIMIT."""
        return await self._ask(service, Inspection(id=uuid.uuid4().hex, base=question))

    async def ask_audit(self, service: str, question: AuditQuestion) -> InspectionAnswer:
        """Return the audit of data files. Raises what the service answered, or TIME_LIMIT."""
        return await self._ask(service, Inspection(id=uuid.uuid4().hex, audit=question))

    async def _ask(self, service: str, inspection: Inspection) -> InspectionAnswer:
        future: asyncio.Future[InspectionAnswer] = asyncio.get_running_loop().create_future()
        self._answers[inspection.id] = future
        self._open.setdefault(service, {})[inspection.id] = inspection
        self._changed(service)
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                answer = await future
        except TimeoutError:
            raise TunefleetError(
                Reason.TIME_LIMIT,
                f"{service} did not look at the files within {_LIMIT_SECONDS:.0f} s.",
                hint="See the trainer's log: tunefleet doctor",
                metadata={"service": service},
            ) from None
        finally:
            del self._answers[inspection.id]
            del self._open[service][inspection.id]
            self._changed(service)
        if answer.WhichOneof("answer") == "error":
            raise error_from_status(answer.error)
        return answer
