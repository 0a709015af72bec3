"""The contract host: serves backend/v1 for one backend of its own environment.

    python -m tunefleet_core.worker.host --backend NAME --socket PATH --lease-seconds 10

It is light: the heavy libraries live in its rank processes. It outlives the
service that started it, for one lease term, so that a restarted service can
adopt its runs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys

import grpc.aio

from tunefleet.backend.v1 import backend_service_pb2_grpc as backend_grpc
from tunefleet_core.errors import TunefleetError
from tunefleet_core.plugins import find_backend
from tunefleet_core.rpc import ErrorInterceptor
from tunefleet_core.rpc.channels import MESSAGE_OPTIONS
from tunefleet_core.worker.backend_host import BackendHost
from tunefleet_core.worker.servicer import BackendServicer

__all__ = ["main"]

_LOG = logging.getLogger(__name__)


async def _serve(arguments: argparse.Namespace) -> None:
    manifest = find_backend(arguments.backend)
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=MESSAGE_OPTIONS)
    async with asyncio.TaskGroup() as group:
        host = BackendHost(
            manifest,
            lease_seconds=arguments.lease_seconds,
            owner_pid=arguments.owner_pid,
            group=group,
            rank_parent=arguments.rank_parent,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, host.stopping.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is the supervisor's to handle
        backend_grpc.add_BackendServiceServicer_to_server(BackendServicer(host), server)
        server.add_insecure_port(f"unix:{arguments.socket}")
        await server.start()
        try:
            if arguments.warm and manifest.rank_entry:
                group.create_task(_warm_up(host))
            await host.watch_owner()
        finally:
            # A server that is not stopped hangs the interpreter's exit.
            await host.end()
            await server.stop(grace=0.2)


async def _warm_up(host: BackendHost) -> None:
    try:
        await host.warm_up()
    except TunefleetError as error:
        _LOG.warning("the spare rank process failed: %s %s", error.message, error.metadata.get("log", ""))


def main() -> None:
    """Run the host."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--socket", required=True, help="path of the unix socket to serve on")
    parser.add_argument("--lease-seconds", type=float, default=10.0)
    # Told, not looked up: an owner that dies while its host starts would leave it with another parent.
    parser.add_argument("--owner-pid", type=int, default=os.getppid(), help="process id of the service")
    parser.add_argument("--rank-parent", default="", help="socket of what forks rank processes")
    parser.add_argument("--warm", action="store_true", help="keep a rank process with its imports done")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(_serve(arguments))
    except TunefleetError as error:
        sys.exit(f"{error.message} {error.hint}")


if __name__ == "__main__":
    main()
