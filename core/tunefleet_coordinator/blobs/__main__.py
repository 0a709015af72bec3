"""Run the blobs process: `python -m tunefleet_coordinator.blobs --state DIR --address HOST:PORT`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_coordinator.blobs.server import BlobOptions, serve
from tunefleet_coordinator.security import StoredTokenBook
from tunefleet_core.process import run_process


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="state folder of the coordinator")
    parser.add_argument("--address", default="127.0.0.1:0", help="where to listen")
    parser.add_argument(
        "--least-free-bytes", type=int, help="what uploads leave free; default: 1 GiB or 2 %% of the disk"
    )
    arguments = parser.parse_args()
    options = BlobOptions(
        state_folder=arguments.state.absolute(),
        address=arguments.address,
        least_free_bytes=arguments.least_free_bytes,
    )

    async def run(group: asyncio.TaskGroup) -> None:
        tokens = await asyncio.to_thread(StoredTokenBook.of_state_folder, options.state_folder)
        await serve(options, tokens)

    run_process(run)


if __name__ == "__main__":
    main()
