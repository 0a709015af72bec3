"""Access log and metrics: bounded, never blocking, parseable."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tunefleet_services.gateway import Route
from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.exchange import Exchange
from tunefleet_services.gateway.histogram import TIME_BUCKETS_SECONDS, Pieces
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.gateway.usage import usage_at_end


class StalledStream(io.StringIO):
    """A fake standard error whose reader sleeps until `reads` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = threading.Event()
        self.reads = threading.Event()

    def write(self, text: str) -> int:
        self.writing.set()
        self.reads.wait()
        return super().write(text)


def test_a_log_that_nobody_reads_drops_and_counts_instead_of_blocking():
    stream = StalledStream()
    log = AccessLog(stream, capacity_lines=5)
    log.start()
    log.write({"n": 0})
    assert stream.writing.wait(10)
    for number in range(1, 9):
        log.write({"n": number})
    assert log.dropped == 3
    stream.reads.set()
    log.stop()
    assert [json.loads(line)["n"] for line in stream.getvalue().splitlines()] == [0, 1, 2, 3, 4, 5]


def test_a_closed_stream_is_counted():
    stream = io.StringIO()
    stream.close()
    log = AccessLog(stream)
    log.start()
    log.write({})
    log.stop()
    assert log.dropped == 1


def exchange(**changes):
    fields = {"request_id": "r", "method": "POST", "path": "/v1/completions", "status": 200}
    return Exchange(**{**fields, **changes})


def route(model="m", engine_model="m@1", project="p"):
    return Route(
        model=model,
        engine_addresses=("http://127.0.0.1:1",),
        engine_model=engine_model,
        project=project,
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
    )


def samples(metrics, **how):
    """Return every sample of the page by name and labels, as Prometheus' own parser reads them."""
    page = metrics.render(log_lines_dropped=4, **how)
    return {
        (sample.name.removeprefix("tunefleet_gateway_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def of(name, **labels):
    return name, tuple(sorted(labels.items()))


def test_only_models_with_a_route_become_labels_and_labels_are_escaped():
    metrics = Metrics()
    odd = 'a"b\\c\nd'
    metrics.count(exchange(model=odd, route=route(odd)))
    metrics.count(exchange(model="guessed", status=404, outcome="refused"))
    found = samples(metrics, outstanding={"http://e:1": 2})
    known = {"project": "p", "model": odd, "adapter": "m@1", "status": "200", "outcome": "answered"}
    other = {"project": "", "model": "", "adapter": "", "status": "404", "outcome": "refused"}
    assert found[of("requests_total", **known)] == 1
    assert found[of("requests_total", **other)] == 1
    assert found[of("log_lines_dropped_total")] == 4
    assert found[of("engine_requests_outstanding", engine="http://e:1")] == 2
    assert "guessed" not in metrics.render(log_lines_dropped=0)


def test_a_token_of_a_project_sees_nothing_of_others():
    metrics = Metrics()
    metrics.count(exchange(route=route("mine")))
    metrics.count(exchange(route=route("theirs", project="research")))
    metrics.count(exchange(status=404))
    page = metrics.render(log_lines_dropped=1, outstanding={"http://e:1": 1}, project="p")
    assert "mine" in page
    for hidden in ("theirs", "404", "http://e:1", "in_flight"):
        assert hidden not in page


def test_the_page_does_not_grow_with_every_deployment_that_ever_was():
    metrics = Metrics()
    metrics.count(exchange(route=route(engine_model="m@always")))
    for number in range(2000):
        metrics.count(exchange(route=route(engine_model=f"m@{number}")))
        metrics.count(exchange(route=route(engine_model="m@always")))
    lines = [line for line in metrics.render(log_lines_dropped=0).splitlines() if "requests_total{" in line]
    assert len(lines) == 500
    assert any('adapter="m@always"' in line and line.endswith(" 2001") for line in lines)


def test_the_histogram_is_cumulative_and_bounds_are_inclusive():
    metrics = Metrics()
    for seconds in (0.0001, TIME_BUCKETS_SECONDS[0], 0.3, 999.0):
        pieces = Pieces()
        metrics.count(exchange(route=route(), first_byte_seconds=seconds, pieces=pieces))
    found = samples(metrics)
    labels = {"project": "p", "model": "m", "adapter": "m@1"}
    name = "time_to_first_token_seconds"
    counts = [found[of(f"{name}_bucket", **labels, le=str(bound))] for bound in TIME_BUCKETS_SECONDS]
    assert counts[0] == 2
    assert counts == sorted(counts)
    assert (counts[-1], found[of(f"{name}_bucket", **labels, le="+Inf")]) == (3, 4)
    assert found[of(f"{name}_count", **labels)] == 4


def test_pieces_are_counted_as_events_also_when_several_come_in_one_go():
    pieces = Pieces()
    pieces.note(b'data: {"a": "one\\n\\n"}\n\n')
    pieces.note(b"data: {}\n\ndata: {}\n\n")
    pieces.note(b"data: {}\n\ndata: [DONE]\n\n")
    pieces.note(b"data: [DONE]\n\n")
    assert sum(pieces.gaps.counts) == 4


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b'{"usage": {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}}', (3, 8)),
        (b'"usage":{"completion_tokens":8,"prompt_tokens":3,"prompt_tokens_details":null},"x":1}', (3, 8)),
        (b'"usage":{"prompt_tokens":5,"total_tokens":5}}', (5, 0)),  # embeddings
        (b'"usage":null}\n\ndata: [DONE]\n\n', None),
        (b'{"content": "\\"usage\\": {\\"prompt_tokens\\": 9}"}', None),  # a model wrote that
        (b"data: [DONE]\n\n", None),
        (b"", None),
    ],
)
def test_usage_is_found_at_the_end_of_an_answer(tail, expected):
    assert usage_at_end(tail) == expected


def test_the_gateway_loads_no_grpc_and_nothing_heavy():
    code = (
        "import sys, tunefleet_services.gateway\n"
        "print(sorted({'grpc', 'torch', 'numpy', 'rich', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
