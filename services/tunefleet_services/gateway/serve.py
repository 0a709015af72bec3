"""Run the gateway's application on an address until cancelled."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from tunefleet_core.errors import TunefleetError
from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.admission import is_loopback
from tunefleet_services.gateway.app import build_app
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.routes import RouteTableHolder
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.tracing import Tracing
from tunefleet_services.gateway.version_traffic import VersionTraffic

if TYPE_CHECKING:  # as in `routing`
    from tunefleet_core.rpc import ListenerTls
    from tunefleet_services.gateway.fine_tuning import FineTuning

__all__ = ["serve_gateway", "ssl_context"]


async def serve_gateway(
    routes: RouteTableHolder,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    settings: GatewaySettings | None = None,
    tls: ssl.SSLContext | None = None,
    access_log: AccessLog | None = None,
    metrics: Metrics | None = None,
    fine_tuning: FineTuning | None = None,
    traffic: VersionTraffic | None = None,
    tracing: Tracing | None = None,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve until cancelled; then let running answers end, for `drain_seconds` at most.

    Args:
        routes: Where models lead; replace its table at any time, in the same event loop.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        settings: Limits; the defaults if left out.
        tls: Certificate to serve with. Demanded beyond loopback.
        access_log: Where requests are logged; standard error if left out.
        metrics: Counters to share with another door; its own if left out.
        fine_tuning: Files, jobs and fine-tuned models; left out: there are none here.
        traffic: Counts by version to share with another door; its own if left out.
        tracing: What makes spans of requests; left out: there are none.
        on_listening: Called once with the base address, as `http://127.0.0.1:8080`.

    Raises:
        TunefleetError: FIELD_INVALID for a bind beyond loopback without TLS.
        OSError: If the address cannot be bound.
    """
    if tls is None and not is_loopback(host):
        raise TunefleetError.field(
            "host",
            f"'{host}' is reachable from other machines and no TLS certificate is given",
            hint="Bind 127.0.0.1, or give a certificate: --tls-cert and --tls-key.",
        )
    settings = settings or GatewaySettings()
    runner = web.AppRunner(
        build_app(
            routes,
            settings=settings,
            access_log=access_log,
            metrics=metrics,
            fine_tuning=fine_tuning,
            traffic=traffic,
            tracing=tracing,
        ),
        access_log=None,  # the application writes its own
        handler_cancellation=True,  # a client that leaves ends the engine's work
        shutdown_timeout=settings.drain_seconds,
    )
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        if on_listening is not None:
            on_listening(_base_address(runner, is_tls=tls is not None))
        await asyncio.Event().wait()  # for ever: the caller cancels
    finally:
        await runner.cleanup()


def _base_address(runner: web.AppRunner, *, is_tls: bool) -> str:
    host, port = runner.addresses[0][:2]
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{name}:{port}"


def ssl_context(tls: ListenerTls) -> ssl.SSLContext:
    """Return what serves HTTPS with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The standard library reads certificates from files alone; these are gone when it has.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # made for its owner alone
        file.write(tls.certificate + b"\n" + tls.key)
        file.flush()
        context.load_cert_chain(file.name)
    return context
