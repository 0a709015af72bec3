"""Spans of requests by OpenTelemetry, for those who ask for them by its own variables.

A span begins where the client's `traceparent` says and is told to the engine, so that a trace goes from
an application through the gateway to an engine that traces too. Without a variable nothing
of OpenTelemetry is imported, and a client's `traceparent` is passed on as it came.

Sources: W3C Trace Context, https://www.w3.org/TR/trace-context/; OpenTelemetry's semantic conventions for
generative AI, https://opentelemetry.io/docs/specs/semconv/gen-ai/, and its variables,
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tunefleet_core.errors import TunefleetError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    from tunefleet_services.gateway.exchange import Exchange

__all__ = ["Trace", "Tracing", "traced"]

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVICE = "tunefleet-gateway"
_CARRIED = ("traceparent", "tracestate")
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_SERVER_ERROR = 500


class Trace:
    """The span of one request.

    Attributes:
        headers: What an engine is sent, so that its spans lie below this one.
    """

    __slots__ = ("_span", "headers")

    def __init__(self, span: Span, headers: Mapping[str, str]) -> None:
        self._span = span
        self.headers = headers

    def end(self, exchange: Exchange) -> None:
        """Say of the span what is known of its request, and end it."""
        from opentelemetry.trace import Status, StatusCode

        operation = _OPERATIONS.get(exchange.path, "chat" if exchange.method == "GRPC" else "")
        found: dict[str, str | int | float] = {
            "http.response.status_code": exchange.status,
            "tunefleet.request_id": exchange.request_id,
            "tunefleet.outcome": exchange.outcome,
        }
        if exchange.route is not None:  # other names are the client's own, and any number of them
            self._span.update_name(f"{operation} {exchange.route.model}")
            found["gen_ai.operation.name"] = operation
            found["gen_ai.request.model"] = exchange.route.model
            found["gen_ai.response.model"] = exchange.route.engine_model
        if exchange.usage is not None:
            found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"] = exchange.usage
        if exchange.first_byte_seconds is not None:
            found["tunefleet.first_byte_seconds"] = exchange.first_byte_seconds
        self._span.set_attributes(found)
        if exchange.status >= _SERVER_ERROR or exchange.outcome == "engine_gone":
            self._span.set_status(Status(StatusCode.ERROR, exchange.outcome))
        self._span.end()


class Tracing:
    """Makes spans. Used from the gateway's event loop; they leave by a thread of the exporter."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", _SERVICE)}
        self._provider: TracerProvider = TracerProvider(
            resource=Resource.create(named), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tunefleet_services.gateway")

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Tracing | None:
        """Return what OpenTelemetry's variables ask for; None if they ask for nothing.

        `OTEL_TRACES_EXPORTER` is `otlp` (over HTTP), `console` or `none`; an OTLP endpoint alone asks for
        `otlp`.

        Raises:
            TunefleetError: FIELD_INVALID for another exporter, or if OpenTelemetry is not installed.
        """
        wanted = variables.get(_EXPORTER) or ("otlp" if any(map(variables.get, _ENDPOINTS)) else "none")
        if wanted == "none" or variables.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        if wanted not in ("otlp", "console"):
            raise TunefleetError.field(
                _EXPORTER, f"is '{wanted}', which is not known here", hint="Use otlp, console or none."
            )
        try:
            return cls(_exporter(wanted))
        except ModuleNotFoundError as error:
            raise TunefleetError.field(
                _EXPORTER,
                f"asks for traces, and '{error.name}' is not installed",
                hint="pip install 'tunefleet[tracing]', or set it to none.",
            ) from error

    def begin(self, exchange: Exchange, headers: Mapping[str, str]) -> Trace:
        """Begin the span of a request.

        Args:
            exchange: The request.
            headers: Those of the client, with any spelling of their names.
        """
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carried = {name.lower(): value for name, value in headers.items() if name.lower() in _CARRIED}
        propagator = TraceContextTextMapPropagator()
        span = self._tracer.start_span(
            exchange.method,
            context=propagator.extract(carried),
            kind=SpanKind.SERVER,
            attributes=_asked(exchange),
        )
        told: dict[str, str] = {}
        propagator.inject(told, context=set_span_in_context(span))
        return Trace(span, told)

    def close(self) -> None:
        """Send what is left; blocks, for seconds if the collector is gone."""
        self._provider.shutdown()


def traced(exchange: Exchange, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers that put an engine's spans into a request's trace: ours, else the client's."""
    if exchange.trace is not None:
        return exchange.trace.headers
    return {name: value for name, value in headers.items() if name.lower() in _CARRIED}


def _asked(exchange: Exchange) -> Mapping[str, str]:
    if exchange.method == "GRPC":
        return {"rpc.system": "grpc", "rpc.method": exchange.path.removeprefix("/")}
    return {"http.request.method": exchange.method, "url.path": exchange.path[:256]}


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        import sys

        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
