"""Run the gRPC door on an address until cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc.aio

from tunefleet.inference.v1 import inference_service_pb2_grpc as inference_grpc
from tunefleet.inference.v1 import relay_service_pb2_grpc as relay_grpc
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import ErrorInterceptor, found_by_name, is_loopback
from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.engines import Engines
from tunefleet_services.gateway.inference.relay_servicer import RelayServicer
from tunefleet_services.gateway.inference.servicer import InferenceServicer
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.routes import RouteTableHolder
from tunefleet_services.gateway.settings import GatewaySettings
from tunefleet_services.gateway.tracing import Tracing
from tunefleet_services.gateway.version_traffic import VersionTraffic

__all__ = ["serve_inference"]


async def serve_inference(
    routes: RouteTableHolder,
    address: str,
    *,
    settings: GatewaySettings,
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
        metrics: Those of the HTTP door: both share the places for requests in flight.
        access_log: Started by the HTTP door.
        traffic: Counts by version, those of the HTTP door; its own if left out.
        tracing: What makes spans of calls; left out: there are none.
        on_listening: Called once with `host:port`.

    Raises:
        TunefleetError: FIELD_INVALID for an address beyond this machine, UNAVAILABLE if the port
            is taken.
    """
    if not is_loopback(address):
        raise TunefleetError.field(
            "inference-port",
            f"'{address}' is reachable from other machines, which needs TLS",
            hint="Bind 127.0.0.1.",
        )
    options = [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.so_reuseport", 0),  # a port that is taken must be an error
    ]
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
        try:
            try:
                port = server.add_insecure_port(address)
            except RuntimeError:
                raise TunefleetError(
                    Reason.UNAVAILABLE,
                    f"The gateway cannot listen at {address}: the port is taken, or not allowed.",
                    hint="Stop what listens there, or choose another port.",
                    metadata={"address": address},
                ) from None
            await server.start()
            on_listening(f"{address.rpartition(':')[0]}:{port}")
            await asyncio.Event().wait()  # for ever: the caller cancels
        finally:
            # A server that is not stopped hangs the interpreter's exit.
            await server.stop(grace=settings.drain_seconds)
