"""Run a server: `python -m tunefleet_services.server --address HOST:PORT --state DIR`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_core.process import read_token, run_process
from tunefleet_services.server.server import Server, ServerOptions


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="the coordinator's service listener, HOST:PORT")
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="state folder of this machine")
    parser.add_argument("--work", type=Path, help="folder for engines; default STATE/services/NAME")
    parser.add_argument("--name", default="server")
    parser.add_argument("--lease-seconds", type=float, default=10.0)
    parser.add_argument(
        "--relay",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="gRPC door of a gateway that cannot dial this machine; may be repeated",
    )
    arguments = parser.parse_args()
    options = ServerOptions(
        name=arguments.name,
        address=arguments.address,
        token=read_token(arguments.token_file),
        state_folder=arguments.state.absolute(),
        work_folder=(arguments.work or arguments.state / "services" / arguments.name).absolute(),
        lease_seconds=arguments.lease_seconds,
        relays=tuple(arguments.relay),
    )

    async def work(group: asyncio.TaskGroup) -> None:
        await Server(options, group).run()

    run_process(work)


if __name__ == "__main__":
    main()
