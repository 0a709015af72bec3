"""Run a gateway: `python -m tunefleet_services.gateway --address HOST:PORT --state DIR --port N`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_core.process import read_token, run_process
from tunefleet_services.gateway.service import Gateway, GatewayOptions
from tunefleet_services.gateway.settings import GatewaySettings

_MIB = 1024 * 1024
_USUAL = GatewaySettings()
_BOUNDS = (
    ("--requests-per-minute", 0, "requests of one API token in a minute; 0: no bound"),
    ("--requests-at-once", 0, "requests of one API token at one time; 0: no bound"),
    ("--max-in-flight", _USUAL.max_in_flight, "requests passed on at one time, of all tokens"),
    ("--max-body-mib", _USUAL.max_body_bytes // _MIB, "longest request body, MiB"),
    ("--max-file-mib", _USUAL.max_file_bytes // _MIB, "longest file of rows, MiB"),
)


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
    for name, default, text in _BOUNDS:
        parser.add_argument(name, type=_count, default=default, metavar="N", help=text)
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
            max_in_flight=arguments.max_in_flight,
            max_body_bytes=arguments.max_body_mib * _MIB,
            max_file_bytes=arguments.max_file_mib * _MIB,
            requests_per_minute=arguments.requests_per_minute,
            requests_at_once=arguments.requests_at_once,
        ),
    )

    async def work(group: asyncio.TaskGroup) -> None:
        await Gateway(options).run()

    run_process(work)


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return count


if __name__ == "__main__":
    main()
