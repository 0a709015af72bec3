"""What new work passes before it is taken."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tunefleet_coordinator.admission import Admission
from tunefleet_coordinator.holds import Holds
from tunefleet_core.artifacts import Watermark
from tunefleet_core.errors import Reason, TunefleetError

CALLERS = 32


class CountedWatermark(Watermark):
    """A watermark that counts how often it was asked."""

    looks = 0

    def require(self, needed_bytes: int = 0) -> None:
        """Count, then look at the disk."""
        CountedWatermark.looks += 1
        super().require(needed_bytes)


async def test_calls_that_come_together_look_at_the_disk_once(tmp_path: Path) -> None:
    CountedWatermark.looks = 0
    admission = Admission(CountedWatermark(folder=tmp_path, least_bytes=0), Holds())
    admitted = 0

    async def one() -> None:
        nonlocal admitted
        with await admission.new_work():
            admitted += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(one())
    assert admitted == CALLERS
    assert CountedWatermark.looks == 1


async def test_a_full_disk_refuses_every_one_of_them(tmp_path: Path) -> None:
    admission = Admission(CountedWatermark(folder=tmp_path, least_bytes=1 << 62), Holds())

    async def one() -> None:
        with await admission.new_work():
            raise AssertionError("work was taken that the disk has no room for")

    found = await asyncio.gather(*(one() for _ in range(CALLERS)), return_exceptions=True)
    assert [error.reason for error in found if isinstance(error, TunefleetError)] == [
        Reason.DISK_FULL
    ] * CALLERS
