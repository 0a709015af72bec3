"""Moving a blob to and from a blobs process against copying the file, in turns.

    python tests/bench/bench_transfer.py [--trials 5] [--output FILE]

The baseline is a copy that makes the digest once and ends with the bytes on the disk: the least that
any content-addressed transfer can do. Beside it, a plain copy. Blobs are moved as pieces over gRPC, as
between hosts, and handed over as open files, as on one host. The processes share this machine's cores,
so the CPU seconds per GB of both say more than the speeds. Every trial frees as much memory before it
begins, because memory that the kernel has just got back is cheaper to use again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from measured_fleet import report, spread, trials_and_output

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration" / "blobs"))

from blobs_process import BlobsProcess  # the path to it is set above

from tunefleet_coordinator.store import Store
from tunefleet_core.artifacts import sha256_of_file

SIZE_BYTES = 256 << 20
_PIECE = 1 << 20
_WAYS = {"pieces": False, "handed over": True}


def plain_copy(source: Path, target: Path) -> None:
    """Copy a file and have it on the disk."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(_PIECE):
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())


def hashed_copy(source: Path, target: Path) -> None:
    """Copy a file, make its digest on the way, and have it on the disk."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(_PIECE):
            digest.update(piece)
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())


class Trial:
    """One measured step after the other, on files of its own."""

    def __init__(self, root: Path, blobs: BlobsProcess) -> None:
        self.source, self.target = root / "source", root / "target"
        self.found: dict[str, float] = {}
        self._ballast = root / "ballast"
        self._blobs = blobs
        self._marks: list[float] = []

    def mark(self, *_: int) -> None:
        """Note when a transfer told how far it is."""
        self._marks.append(time.perf_counter())

    async def measure(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Note the speed of some work on the whole file, its CPU seconds and its stages."""
        self.target.unlink(missing_ok=True)
        self._free_memory()
        self._marks = [time.perf_counter()]
        mine, theirs = time.process_time(), _cpu_seconds(self._blobs.pid)
        await work()
        self.mark()
        marks, gigabytes = self._marks, SIZE_BYTES / 1e9
        self.found[f"{name}, MB/s"] = SIZE_BYTES / 1e6 / (marks[-1] - marks[0])
        self.found[f"{name}, CPU s/GB here"] = (time.process_time() - mine) / gigabytes
        if len(marks) > 2:
            self.found[f"{name}, CPU s/GB there"] = (_cpu_seconds(self._blobs.pid) - theirs) / gigabytes
            # The last two marks are the end; the last but these is of the last bytes that moved.
            self.found[f"{name}, s to ask"] = marks[1] - marks[0]
            self.found[f"{name}, s to move"] = max(marks[-3], marks[1]) - marks[1]
            self.found[f"{name}, s to end"] = marks[-1] - max(marks[-3], marks[1])

    def _free_memory(self) -> None:
        with self._ballast.open("wb") as stream:
            for _ in range(2 * SIZE_BYTES // _PIECE):
                stream.write(bytes(_PIECE))
        self._ballast.unlink()


async def one_trial(root: Path, blobs: BlobsProcess) -> dict[str, float]:
    """Measure every way once, each beside a baseline of its own, with new bytes."""
    trial = Trial(root, blobs)
    source, target = trial.source, trial.target
    source.write_bytes(os.urandom(SIZE_BYTES))

    async def plain() -> None:
        plain_copy(source, target)

    async def hashed() -> None:
        hashed_copy(source, target)

    await trial.measure("plain copy", plain)
    for way, may_hand_over in _WAYS.items():
        await trial.measure("hashed copy", hashed)
        await measure_way(trial, blobs, way, may_hand_over=may_hand_over)
    return trial.found


async def measure_way(trial: Trial, blobs: BlobsProcess, way: str, *, may_hand_over: bool) -> None:
    """Measure an upload and a download beside the baseline that was measured last."""
    async with blobs.transfers(may_hand_over=may_hand_over) as transfers:

        async def upload() -> None:
            await transfers.upload(trial.source, progress=trial.mark)

        async def download() -> None:
            await transfers.download(digest, trial.target, progress=trial.mark)

        await trial.measure(f"upload, {way}", upload)
        digest = sha256_of_file(trial.source)
        await trial.measure(f"download, {way}", download)
    for direction in ("upload", "download"):
        speed = trial.found[f"{direction}, {way}, MB/s"]
        trial.found[f"{direction}, {way} / hashed copy"] = speed / trial.found["hashed copy, MB/s"]
    blobs.store.path_of(digest).unlink()


@asynccontextmanager
async def blobs_process() -> AsyncIterator[tuple[Path, BlobsProcess]]:
    """Run a blobs process on a folder of its own; nothing of it is left afterwards."""
    root = Path(tempfile.mkdtemp(prefix="tf-bench-", dir="/tmp"))  # unix sockets need short paths
    (root / "state").mkdir()
    Store.open(root / "state" / "coordinator.db").close()
    blobs = BlobsProcess(root / "state")
    try:
        await blobs.start()
        yield root, blobs
    finally:
        await blobs.kill()
        shutil.rmtree(root, ignore_errors=True)


async def run(count: int) -> dict[str, object]:
    """Measure some times."""
    found: dict[str, list[float]] = {}
    async with blobs_process() as (root, blobs):
        for _ in range(count):
            for name, value in (await one_trial(root, blobs)).items():
                found.setdefault(name, []).append(value)
        memory = {"most memory of the blobs process, MB": round(blobs.most_memory_bytes() / 1e6)}
    return {name: spread(values) for name, values in found.items()} | memory


def _cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the benchmark."""
    count, output = trials_and_output(__doc__, trials=5)
    promises = {"upload, download / hashed copy": ">= 0.8"}
    report("transfer", promises=promises, results=asyncio.run(run(count)), output=output)


if __name__ == "__main__":
    main()
