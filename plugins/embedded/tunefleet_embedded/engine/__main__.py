"""Starts the engine: `python -m tunefleet_embedded.engine --model FOLDER`.

Standard output carries one line, `READY http://host:port`; everything else is logged to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

from aiohttp import web

from tunefleet_embedded.engine.adapters import ModelRegistry
from tunefleet_embedded.engine.errors import ModelRefused
from tunefleet_embedded.engine.generation import Generator
from tunefleet_embedded.engine.http import Routes
from tunefleet_embedded.engine.metrics import Metrics
from tunefleet_embedded.engine.model import BaseModel, load_base_model
from tunefleet_embedded.engine.options import EngineOptions, parse_options
from tunefleet_embedded.engine.runner import BatchRunner
from tunefleet_embedded.engine.scheduler import Scheduler

_log = logging.getLogger(__name__)
_STOP_SECONDS = 0.5


def main() -> None:
    """Loads the model, serves until SIGTERM or SIGINT, and leaves within two seconds of it."""
    options = parse_options()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        base = load_base_model(options)
    except (ModelRefused, OSError, ValueError) as error:
        _log.error("%s cannot be served: %s", options.model, error)
        sys.exit(1)
    asyncio.run(_serve(options, base))
    sys.stdout.flush()
    # A forward of a large model cannot be interrupted; nothing here needs an orderly end of that thread.
    os._exit(0)


async def _serve(options: EngineOptions, base: BaseModel) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    metrics = Metrics()
    runner = BatchRunner(base)
    scheduler = Scheduler(
        runner, metrics, max_batch=options.max_batch, max_waiting=options.max_waiting, loop=loop
    )
    registry = ModelRegistry(base, options.chat_template, runner=runner, scheduler=scheduler, metrics=metrics)
    generator = Generator(base, registry, scheduler)
    routes = Routes(base, registry=registry, generator=generator, metrics=metrics, api_key=options.api_key)
    # Cancelling the handler of a client that has gone is what frees its rows.
    server = web.AppRunner(
        routes.application(), handler_cancellation=True, access_log=None, shutdown_timeout=_STOP_SECONDS
    )
    await server.setup()
    scheduler.start()
    site = web.TCPSite(server, options.host, options.port)
    await site.start()
    print(f"READY http://{_address(server)}", flush=True)
    await stopped.wait()
    _log.info("stopping")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * _STOP_SECONDS):
            await server.cleanup()
    await asyncio.to_thread(scheduler.stop, _STOP_SECONDS)


def _address(server: web.AppRunner) -> str:
    host, port = server.addresses[0][:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    main()
