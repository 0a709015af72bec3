"""A request's span leaves by OTLP to a collector, between the client's span and those of the engine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tunefleet_core.errors import TunefleetError
from tunefleet_services.gateway.tracing import Tracing

CHAT = "/v1/chat/completions"
TRACE, CLIENT_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        received = self.received = list[ExportTraceServiceRequest]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    raise AssertionError("nobody asked for compression")
                received.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def services(self) -> set[str]:
        return {
            attribute.value.string_value
            for request in self.received
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    found = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.address)
    yield found
    found.server.shutdown()
    found.server.server_close()


def _chat(**fields: object) -> dict[str, object]:
    return {"model": "tickets", "messages": [{"role": "user", "content": "hi"}], **fields}


def _said_of(span: Span) -> dict[str, Any]:
    return {item.key: getattr(item.value, str(item.value.WhichOneof("value"))) for item in span.attributes}


async def test_a_span_stands_between_the_clients_and_the_engines(
    engine: Any, gateway: Any, table: Any, collector: Collector
) -> None:
    tracing = Tracing.from_environment()
    assert tracing is not None
    sent = {"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01", "tracestate": "vendor=1"}
    async with (
        gateway(table(tickets=engine.address), tracing=tracing) as running,
        aiohttp.ClientSession(headers={**running.auth, **sent}) as session,
    ):
        async with session.post(running.address + CHAT, json=_chat()) as answer:
            assert answer.status == 200
        async with session.post(running.address + CHAT, json=_chat(model="unknown")) as answer:
            assert answer.status == 404
    tracing.close()
    chat, unknown = collector.spans()
    assert (chat.trace_id.hex(), chat.parent_span_id.hex()) == (TRACE, CLIENT_SPAN)
    assert chat.kind == Span.SPAN_KIND_SERVER
    assert chat.name == "chat tickets"
    said = _said_of(chat)
    assert said["gen_ai.request.model"] == "tickets"
    assert said["gen_ai.response.model"] == "tickets@42"
    assert said["http.response.status_code"] == 200
    assert said["gen_ai.usage.output_tokens"] > 0
    (request,) = engine.seen()
    headers = {name.lower(): value for name, value in request["headers"].items()}
    assert headers["traceparent"] == f"00-{TRACE}-{chat.span_id.hex()}-01"
    assert headers["tracestate"] == "vendor=1"
    assert unknown.name == "POST", "a name that nobody serves becomes no name of a span"
    assert _said_of(unknown)["http.response.status_code"] == 404
    assert collector.services() == {"tunefleet-gateway"}


async def test_a_request_that_fails_is_an_error_of_its_span(
    start_engine: Any, gateway: Any, table: Any, collector: Collector
) -> None:
    engine = start_engine()
    tracing = Tracing.from_environment()
    assert tracing is not None
    async with gateway(table(tickets=engine.address), tracing=tracing) as running:
        engine.end()
        async with (
            aiohttp.ClientSession(headers=running.auth) as session,
            session.post(running.address + CHAT, json=_chat()) as answer,
        ):
            assert answer.status == 503
    tracing.close()
    (span,) = collector.spans()
    assert span.status.code == Status.STATUS_CODE_ERROR


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nobody_is_traced_who_did_not_ask(variables: dict[str, str]) -> None:
    assert Tracing.from_environment(variables) is None


def test_an_exporter_that_is_not_known_is_named() -> None:
    with pytest.raises(TunefleetError, match="zipkin") as caught:
        Tracing.from_environment({"OTEL_TRACES_EXPORTER": "zipkin"})
    assert "console" in caught.value.hint


def test_a_gateway_that_traces_nothing_imports_nothing_of_it() -> None:
    program = "import sys, tunefleet_services.gateway.service as s; s.Tracing.from_environment({})\n"
    program += "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
