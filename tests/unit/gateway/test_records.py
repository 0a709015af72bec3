"""Access log and metrics: bounded, never blocking, parseable."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading

from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.exchange import Exchange
from tunefleet_services.gateway.metrics import FIRST_BYTE_BUCKETS_SECONDS, Metrics


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


def test_only_models_with_a_route_become_labels_and_labels_are_escaped():
    metrics = Metrics()
    metrics.count(exchange(model='a"b\\c\nd', is_known_model=True))
    metrics.count(exchange(model="guessed", status=404))
    page = metrics.render(log_lines_dropped=4)
    assert 'requests_total{model="a\\"b\\\\c\\nd",status="200"} 1' in page
    assert 'requests_total{model="",status="404"} 1' in page
    assert "guessed" not in page
    assert "tunefleet_gateway_log_lines_dropped_total 4\n" in page


def test_the_histogram_is_cumulative_and_bounds_are_inclusive():
    metrics = Metrics()
    for seconds in (0.001, FIRST_BYTE_BUCKETS_SECONDS[0], 0.3, 999.0):
        metrics.count(exchange(model="m", is_known_model=True, first_byte_seconds=seconds))
    counts = [
        int(line.rpartition(" ")[2])
        for line in metrics.render(log_lines_dropped=0).splitlines()
        if "first_byte_seconds_bucket" in line
    ]
    assert counts[0] == 2
    assert counts == sorted(counts)
    assert counts[-2:] == [3, 4]


def test_the_gateway_loads_no_grpc_and_nothing_heavy():
    code = (
        "import sys, tunefleet_services.gateway\n"
        "print(sorted({'grpc', 'torch', 'numpy', 'rich', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
