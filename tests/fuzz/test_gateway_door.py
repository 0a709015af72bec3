"""Whatever is posted to the gateway's HTTP door, the answer is OpenAI's error, never a 500."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunefleet_services.gateway import (
    AccessLog,
    GatewaySettings,
    Route,
    RouteTable,
    RouteTableHolder,
    serve_gateway,
)

_TOKEN = "tf-fuzz"
_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_BODIES = st.one_of(
    st.binary(max_size=200),
    _JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["model", "messages", "stream", "n"]), _JSON).map(
        lambda value: json.dumps(value).encode()
    ),
    st.dictionaries(
        st.sampled_from(
            [
                "input",
                "instructions",
                "tools",
                "tool_choice",
                "text",
                "previous_response_id",
                "max_output_tokens",
            ]
        ),
        _JSON,
    ).map(lambda value: json.dumps({"model": "m", "input": "a", **value}).encode()),
    st.dictionaries(
        st.sampled_from(["training_file", "hyperparameters", "method", "suffix", "seed"]), _JSON
    ).map(lambda value: json.dumps({"model": "m", "training_file": "file-a", **value}).encode()),
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A gateway in a thread, with one route that leads nowhere."""
    digest = hashlib.sha256(_TOKEN.encode()).hexdigest()
    route = Route(
        model="m",
        engine_addresses=("http://127.0.0.1:9",),
        engine_model="m",
        project="default",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
    )
    holder = RouteTableHolder(RouteTable.of([route], [digest]))
    listening = threading.Event()
    found: list[str] = []
    loop = asyncio.new_event_loop()

    def note(base_address: str) -> None:
        found.append(base_address)
        listening.set()

    serving = loop.create_task(
        serve_gateway(
            holder,
            settings=GatewaySettings(drain_seconds=0.1),
            access_log=AccessLog(io.StringIO()),
            on_listening=note,
        )
    )
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([serving])), daemon=True)
    thread.start()
    assert listening.wait(timeout=30)
    yield found[0]
    loop.call_soon_threadsafe(serving.cancel)
    thread.join(timeout=30)
    loop.close()


@settings(max_examples=150)
@given(
    body=_BODIES,
    path=st.sampled_from(
        [
            *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"),
            *("/v1/models", "/", "/v1/models/%00", "/v1/files", "/v1/files/file-a/content"),
            *("/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/a/cancel", "/v1/fine_tuning/jobs/%00/events"),
        ]
    ),
)
@example(body=b"[" * 100_000, path="/v1/chat/completions")
@example(body=b'{"model": "m", "model": "n"}', path="/v1/chat/completions")
@example(body=b'{"model": "m"}', path="/v1/chat/completions")
@example(body=b'{"model": "\\ud800"}', path="/v1/chat/completions")
@example(body=b'{"model": "m", "n": ' + b"9" * 5000 + b"}", path="/v1/completions")
def test_door_answers_whatever_is_posted(address: str, body: bytes, path: str) -> None:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
        connection.request("POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        error = json.loads(answer.read())["error"]
    finally:
        connection.close()
    assert error["message"]
    # 503: the body was right, and nobody is where its route leads.
    assert answer.status in (400, 404, 405, 413) or error["code"] == "engine_unavailable", error
