"""How much of a disk is left to what already runs.

A disk that runs full fails everything on it at once, running jobs first. So new work is
refused while there is still room for the checkpoints of the work that was taken.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["Watermark"]

_LEAST_BYTES = 1 << 30
_LEAST_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """The part of a disk that new work may not use.

    Attributes:
        folder: Any folder on the disk.
        least_bytes: What stays free; None: the larger of 1 GiB and 2 % of the disk.
    """

    folder: Path
    least_bytes: int | None = None

    def free_and_least(self) -> tuple[int, int]:
        """Return the bytes that are free, and how many of them must stay so."""
        disk = os.statvfs(self.folder)
        least = self.least_bytes
        if least is None:
            least = max(_LEAST_BYTES, int(disk.f_blocks * disk.f_frsize * _LEAST_SHARE))
        return disk.f_bavail * disk.f_frsize, least

    def require(self, needed_bytes: int = 0) -> None:
        """Refuse new work if it would leave less free than it must.

        Args:
            needed_bytes: What the work is known to write.

        Raises:
            TunefleetError: DISK_FULL with path, free bytes and the command that frees some.
        """
        free, least = self.free_and_least()
        if free - needed_bytes >= least:
            return
        needs = f", {needed_bytes} are needed" if needed_bytes else ""
        raise TunefleetError(
            Reason.DISK_FULL,
            f"The disk of {self.folder} has {free} bytes free{needs}, and {least} must stay free for "
            "what runs already.",
            hint="Free space on this disk, or remove what nothing needs any more: tunefleet prune",
            metadata={
                "path": str(self.folder),
                "free_bytes": str(free),
                "needed_bytes": str(needed_bytes),
                "least_bytes": str(least),
            },
        )
