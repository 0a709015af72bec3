"""Run the blobs process: `python -m tunefleet_coordinator.blobs --state DIR --address HOST:PORT`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_coordinator.blobs.server import BlobOptions, serve
from tunefleet_coordinator.security import StoredMemberBook, StoredTokenBook
from tunefleet_coordinator.tls import own_tls
from tunefleet_core.process import run_process
from tunefleet_core.rpc import ListenerTls


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="state folder of the coordinator")
    parser.add_argument("--address", default="127.0.0.1:0", help="where to listen")
    parser.add_argument(
        "--least-free-bytes", type=int, help="what uploads leave free; default: 1 GiB or 2 %% of the disk"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate of the users' listener")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument("--member-address", default="", help="listener for services of other machines")
    arguments = parser.parse_args()
    state = arguments.state.absolute()
    options = BlobOptions(
        state_folder=state,
        address=arguments.address,
        least_free_bytes=arguments.least_free_bytes,
        tls=ListenerTls.read(arguments.tls_cert, arguments.tls_key) if arguments.tls_cert else None,
        member_address=arguments.member_address,
        member_tls=own_tls(state) if arguments.member_address else None,
    )

    async def run(group: asyncio.TaskGroup) -> None:
        tokens = await asyncio.to_thread(StoredTokenBook.of_state_folder, options.state_folder)
        await serve(options, tokens, StoredMemberBook(state / "coordinator.db"))

    run_process(run)


if __name__ == "__main__":
    main()
