"""Run a server: `python -m tunefleet_services.server --address HOST:PORT --state DIR`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_core.process import ending_clearly, run_process
from tunefleet_services.joining import add_way, way_of
from tunefleet_services.server.server import Server, ServerOptions


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_way(parser, name="server")
    parser.add_argument("--state", type=Path, required=True, help="state folder of this machine")
    parser.add_argument("--work", type=Path, help="folder for engines; default STATE/services/NAME")
    parser.add_argument("--lease-seconds", type=float, default=10.0)
    parser.add_argument(
        "--relay",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="gRPC door of a gateway that cannot dial this machine; may be repeated",
    )
    arguments = parser.parse_args()
    with ending_clearly():
        way = way_of(parser, arguments)
    options = ServerOptions(
        name=way.name,
        address=way.address,
        token=way.token,
        membership=way.membership,
        state_folder=arguments.state.absolute(),
        work_folder=(arguments.work or arguments.state / "services" / way.name).absolute(),
        lease_seconds=arguments.lease_seconds,
        relays=tuple(arguments.relay),
    )

    async def work(group: asyncio.TaskGroup) -> None:
        await Server(options, group).run()

    run_process(work)


if __name__ == "__main__":
    main()
