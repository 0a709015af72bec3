"""Fetch the weights of a Hub model, in a process of its own that can be stopped.

    python -m tunefleet_core.catalog.hub_fetch --model org/name --commit <40 hex digits>

Tells its progress as JSON lines on standard output: `{"done_bytes": …, "total_bytes": …}`,
last of all `{"error": {…}}` if it failed. A fetch that was cut goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download  # pyright: ignore[reportUnknownVariableType]  # a bare dict in its own types
from huggingface_hub.utils import disable_progress_bars

from tunefleet_core.catalog.hub_cache import hub_cache
from tunefleet_core.catalog.hub_errors import hub_refusal
from tunefleet_core.catalog.hub_remote import require_space, weight_names
from tunefleet_core.errors import TunefleetError

__all__ = ["fetch", "main"]

_REPORT_SECONDS = 1.0


def fetch(model: str, commit: str) -> None:
    """Fetch the weights of a commit; its small files are here already.

    Raises:
        TunefleetError: as `read_remote`.
    """
    root = hub_cache() / f"models--{model.replace('/', '--')}"
    folder = root / "snapshots" / commit
    try:
        info = HfApi().model_info(model, revision=commit, files_metadata=True)
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or ()}
        names = weight_names(model, folder, sizes)
        missing = [name for name in sorted(names) if not (folder / name).exists()]
        total = sum(sizes[name] for name in missing)
        before = _size(root / "blobs")
        partial = sum(path.stat().st_size for path in (root / "blobs").glob("*.incomplete"))
        require_space(model, total - partial)
        with _reporting(root / "blobs", before - partial, total):
            snapshot_download(model, revision=commit, allow_patterns=missing)
    except TunefleetError:
        raise
    except Exception as error:  # the edge of the library: classed once, here
        raise hub_refusal(error, model, commit) from error
    _tell({"done_bytes": total, "total_bytes": total})


@contextmanager
def _reporting(blobs: Path, before: int, total: int) -> Generator[None]:
    """Tell every second what is on the disk: the one figure that survives every kind of transfer."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(_REPORT_SECONDS):
            _tell({"done_bytes": max(0, min(total, _size(blobs) - before)), "total_bytes": total})

    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed when it was whole
            continue
    return total


def _tell(content: object) -> None:
    print(json.dumps(content), flush=True)


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--commit", required=True)
    arguments = parser.parse_args()
    disable_progress_bars()
    try:
        fetch(arguments.model, arguments.commit)
    except TunefleetError as error:
        _tell(
            {
                "error": {
                    "reason": error.reason.value,
                    "message": error.message,
                    "hint": error.hint,
                    "metadata": dict(error.metadata),
                }
            }
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
