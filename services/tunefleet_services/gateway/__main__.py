"""Run a gateway: `python -m tunefleet_services.gateway --address HOST:PORT --state DIR --port N`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_core.process import read_token, run_process
from tunefleet_services.gateway.service import Gateway, GatewayOptions
from tunefleet_services.gateway.settings import GatewaySettings


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="the coordinator's service listener, HOST:PORT")
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="state folder of this machine")
    parser.add_argument("--name", default="gateway")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=int, default=0, help="port to bind; 0 takes a free one")
    parser.add_argument("--inference-port", type=int, default=0, help="gRPC port; 0 takes a free one")
    parser.add_argument(
        "--user-address", default="", help="the coordinator's user listener, HOST:PORT: who fine-tunes"
    )
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help="may be repeated"
    )
    parser.add_argument("--requests-per-minute", type=int, default=0, help="of one API token; 0: no bound")
    parser.add_argument("--requests-at-once", type=int, default=0, help="of one API token; 0: no bound")
    arguments = parser.parse_args()
    options = GatewayOptions(
        name=arguments.name,
        address=arguments.address,
        token=read_token(arguments.token_file),
        state_folder=arguments.state.absolute(),
        host=arguments.host,
        port=arguments.port,
        inference_port=arguments.inference_port,
        user_address=arguments.user_address,
        settings=GatewaySettings(
            allowed_hosts=frozenset(arguments.allow_host),
            allowed_origins=frozenset(arguments.allow_origin),
            requests_per_minute=arguments.requests_per_minute,
            requests_at_once=arguments.requests_at_once,
        ),
    )

    async def work(group: asyncio.TaskGroup) -> None:
        await Gateway(options).run()

    run_process(work)


if __name__ == "__main__":
    main()
