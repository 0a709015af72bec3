"""Keeping histories within their bounds: finds those that have grown too long and has them trimmed.

The core knows how much a job's history holds, the store knows where its segments end; here
the two meet. A trim is an input like any other, so it is decided and committed with the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import Change, HistoryTrimmed, JobRow, Policy, RowChange

if TYPE_CHECKING:
    from tunefleet_coordinator.kernel.kernel import Kernel

__all__ = ["HistoryKeeper"]

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0


class HistoryKeeper:
    """Trims the histories that a kernel's decisions made too long."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._long: dict[str, None] = {}
        self._found = asyncio.Event()

    def look_at(self, changes: Iterable[Change]) -> None:
        """Note the jobs whose history is beyond a bound after some changes."""
        for change in changes:
            row = change.new if isinstance(change, RowChange) else None
            if isinstance(row, JobRow) and _is_long(row, self._kernel.policy):
                self._long[row.uid] = None
                self._found.set()

    async def run(self) -> None:
        """Trim until cancelled."""
        while True:
            await self._found.wait()
            self._found.clear()
            for uid in list(self._long):
                del self._long[uid]
                try:
                    await self._trim(uid)
                except TunefleetError as error:
                    _log.error("The history of job %s was not trimmed: %s", uid, error)
                    await asyncio.sleep(_RETRY_SECONDS)  # the next event of the job has it tried again

    async def _trim(self, uid: str) -> None:
        kernel, policy = self._kernel, self._kernel.policy
        cut = await kernel.read(
            kernel.store.beyond_bounds,
            uid,
            events=int(policy.history_events * policy.history_kept_share),
            size=int(policy.history_bytes * policy.history_kept_share),
        )
        if cut is not None:
            through, dropped = cut
            await kernel.submit(
                HistoryTrimmed(
                    at=kernel.moment(), job_uid=uid, through_sequence=through, dropped_bytes=dropped
                )
            )


def _is_long(job: JobRow, policy: Policy) -> bool:
    events = job.last_sequence - job.oldest_sequence + 1
    return events > policy.history_events or job.history_bytes > policy.history_bytes
