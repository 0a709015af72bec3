"""Counters of the gateway, in Prometheus' text form.

Written by hand: four metrics do not deserve a dependency in a light process. A model
name becomes a label only if a route has it, so a client cannot grow the page.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

from tunefleet_services.gateway.exchange import Exchange

__all__ = ["FIRST_BYTE_BUCKETS_SECONDS", "Metrics"]

FIRST_BYTE_BUCKETS_SECONDS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
)
"""Upper bounds of the time to first byte; the last bucket is without bound."""

_PREFIX = "tunefleet_gateway_"


class Metrics:
    """Counts requests of one gateway. Used from its event loop only."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Requests that are being passed on now."""
        self._requests: Counter[tuple[str, int]] = Counter()
        self._cut: Counter[str] = Counter()
        self._first_byte: dict[str, _Histogram] = {}

    def count(self, exchange: Exchange) -> None:
        """Count a request at its end."""
        model = exchange.model if exchange.is_known_model else ""
        self._requests[model, exchange.status] += 1
        if exchange.outcome == "engine_gone":
            self._cut[model] += 1
        if exchange.first_byte_seconds is not None:
            self._first_byte.setdefault(model, _Histogram()).add(exchange.first_byte_seconds)

    def render(self, *, log_lines_dropped: int) -> str:
        """Return the page for `GET /metrics`."""
        return "\n".join(self._lines(log_lines_dropped)) + "\n"

    def _lines(self, log_lines_dropped: int) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Requests by model and status; 499: client gone.")
        for (model, status), count in sorted(self._requests.items()):
            yield _sample("requests_total", {"model": model, "status": str(status)}, count)
        yield from _head("answers_cut_total", "counter", "Answers that the engine did not finish.")
        for model, count in sorted(self._cut.items()):
            yield _sample("answers_cut_total", {"model": model}, count)
        yield from _head("requests_in_flight", "gauge", "Requests that are being passed on.")
        yield _sample("requests_in_flight", {}, self.in_flight)
        yield from _head("log_lines_dropped_total", "counter", "Access log lines that were not written.")
        yield _sample("log_lines_dropped_total", {}, log_lines_dropped)
        yield from _head(
            "first_byte_seconds", "histogram", "From a request's arrival to its answer's first byte."
        )
        for model, histogram in sorted(self._first_byte.items()):
            yield from histogram.lines("first_byte_seconds", model)


class _Histogram:
    __slots__ = ("_counts", "_sum_seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(FIRST_BYTE_BUCKETS_SECONDS) + 1)
        self._sum_seconds = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(FIRST_BYTE_BUCKETS_SECONDS, seconds)] += 1
        self._sum_seconds += seconds

    def lines(self, name: str, model: str) -> Iterator[str]:
        total = 0
        bounds = [*(str(bound) for bound in FIRST_BYTE_BUCKETS_SECONDS), "+Inf"]
        for bound, count in zip(bounds, self._counts, strict=True):
            total += count  # buckets of Prometheus are cumulative
            yield _sample(f"{name}_bucket", {"model": model, "le": bound}, total)
        yield _sample(f"{name}_sum", {"model": model}, round(self._sum_seconds, 6))
        yield _sample(f"{name}_count", {"model": model}, total)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {text}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{_PREFIX}{name}{{{pairs}}} {value}" if pairs else f"{_PREFIX}{name} {value}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
