"""Run the gRPC doors on their addresses until cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc.aio

from tunefleet.inference.v1 import inference_service_pb2_grpc as inference_grpc
from tunefleet.inference.v1 import relay_service_pb2_grpc as relay_grpc
from tunefleet_core.errors import TunefleetError
from tunefleet_core.rpc import (
    ErrorInterceptor,
    ListenerTls,
    found_by_name,
    listen,
    listener_options,
    require_tls,
)
from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.engines import Engines
from tunefleet_services.gateway.inference.relay_servicer import RelayServicer
from tunefleet_services.gateway.inference.servicer import InferenceServicer
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.relays import Relays
from tunefleet_services.gateway.routes import RouteTableHolder
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.tracing import Tracing
from tunefleet_services.gateway.version_traffic import VersionTraffic

__all__ = ["serve_inference", "serve_relays"]


async def serve_inference(
    routes: RouteTableHolder,
    address: str,
    *,
    settings: GatewaySettings,
    tls: ListenerTls | None = None,
    metrics: Metrics,
    access_log: AccessLog,
    traffic: VersionTraffic | None = None,
    tracing: Tracing | None = None,
    on_listening: Callable[[str], None],
) -> None:
    """Serve until cancelled; then let running answers end, for `drain_seconds` at most.

    Args:
        routes: Where models lead; the holder of the HTTP door.
        address: `host:port` to bind; port 0 takes a free one.
        settings: Limits, those of the HTTP door.
        tls: Certificate to serve with. Demanded beyond loopback.
        metrics: Those of the HTTP door: both share the places for requests in flight.
        access_log: Started by the HTTP door.
        traffic: Counts by version, those of the HTTP door; its own if left out.
        tracing: What makes spans of calls; left out: there are none.
        on_listening: Called once with `host:port`.

    Raises:
        TunefleetError: FIELD_INVALID for an address beyond this machine without TLS, UNAVAILABLE if
            the port is taken.
    """
    require_tls("inference-port", address, has_tls=tls is not None, hint="Give --tls-cert and --tls-key.")
    options = [("grpc.max_receive_message_length", settings.max_body_bytes), *listener_options(tls)]
    async with Engines.opened(settings, routes) as engines:
        server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=options)
        servicer = InferenceServicer(
            routes=routes,
            engines=engines,
            settings=settings,
            metrics=metrics,
            access_log=access_log,
            traffic=traffic or VersionTraffic(),
            tracing=tracing,
        )
        inference_grpc.add_InferenceServiceServicer_to_server(servicer, found_by_name(server))
        relay_grpc.add_RelayServiceServicer_to_server(RelayServicer(routes.relays), found_by_name(server))
        await _serve(server, address, tls, on_listening, drain_seconds=settings.drain_seconds)


async def serve_relays(
    relays: Relays, address: str, *, tls: ListenerTls, on_listening: Callable[[str], None]
) -> None:
    """Serve servers of other machines, which show their certificates, until cancelled.

    Args:
        relays: Knows which certificates may, and what is asked of their engines.
        address: `host:port` to bind; port 0 takes a free one.
        tls: Certificate to serve with, and the authority that callers must be of.
        on_listening: Called once with `host:port`.
    """
    if not tls.client_authority:
        raise TunefleetError.field("relay-certificates", "lacks the authority that servers must be of")
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=listener_options(tls))
    servicer = RelayServicer(relays, by_certificate=True)
    relay_grpc.add_RelayServiceServicer_to_server(servicer, found_by_name(server))
    await _serve(server, address, tls, on_listening, drain_seconds=None)


async def _serve(
    server: grpc.aio.Server,
    address: str,
    tls: ListenerTls | None,
    on_listening: Callable[[str], None],
    *,
    drain_seconds: float | None,
) -> None:
    try:
        port = listen(server, address, tls, who="The gateway")
        await server.start()
        on_listening(f"{address.rpartition(':')[0]}:{port}")
        await asyncio.Event().wait()  # for ever: the caller cancels
    finally:
        # A server that is not stopped hangs the interpreter's exit.
        await server.stop(grace=drain_seconds)
