"""Run a gateway: `python -m tunefleet_services.gateway --address HOST:PORT --state DIR --port N`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_core.process import read_token, run_process
from tunefleet_services.gateway.service import Gateway, GatewayOptions


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
    arguments = parser.parse_args()
    options = GatewayOptions(
        name=arguments.name,
        address=arguments.address,
        token=read_token(arguments.token_file),
        state_folder=arguments.state.absolute(),
        host=arguments.host,
        port=arguments.port,
        inference_port=arguments.inference_port,
    )

    async def work(group: asyncio.TaskGroup) -> None:
        await Gateway(options).run()

    run_process(work)


if __name__ == "__main__":
    main()
