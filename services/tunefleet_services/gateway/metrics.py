"""Counters of the gateway, in Prometheus' text form.

Written by hand: its own counts are plain numbers of one event loop, where a client library takes
a lock for each token. A name becomes a label only if a route has it, and the label sets that
are kept are bounded, so neither a client nor years of deployments can grow the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tunefleet_services.gateway.exchange import Exchange
from tunefleet_services.gateway.histogram import TIME_BUCKETS_SECONDS, Histogram

__all__ = ["Metrics"]

_PREFIX = "tunefleet_gateway_"
_MOST_MODELS = 500
"""Models of which counts are kept, those that were asked last. One that comes back begins at 0, as after a
restart."""
_HISTOGRAMS = {
    "time_to_first_token_seconds": "From a request's arrival to the first bytes of its stream.",
    "inter_token_seconds": "Between two pieces of a stream, as they came from the engine.",
    "answer_seconds": "From a request's arrival to the end of its answer.",
}
_TOKENS = {
    "prompt_tokens_total": "Tokens of prompts, as engines counted them.",
    "completion_tokens_total": "Tokens of answers, as engines counted them.",
    "answers_without_usage_total": "Answers without a count of tokens: streams have one only if asked.",
}


@dataclass(frozen=True, slots=True)
class _Labels:
    """Of a model; all empty for what concerns none."""

    project: str = ""
    model: str = ""
    adapter: str = ""


@dataclass(slots=True)
class _Counts:
    """What is known of one model."""

    requests: Counter[tuple[int, str]] = field(default_factory=Counter[tuple[int, str]])
    tokens: Counter[str] = field(default_factory=Counter[str])
    times: dict[str, Histogram] = field(default_factory=dict[str, Histogram])

    def histogram(self, name: str) -> Histogram:
        return self.times.setdefault(name, Histogram())


class Metrics:
    """Counts requests of one gateway. Used from its event loop only."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Requests that are being passed on now."""
        self._models: dict[_Labels, _Counts] = {}

    def count(self, exchange: Exchange) -> None:
        """Count a request at its end."""
        counts = self._of(exchange)
        counts.requests[exchange.status, exchange.outcome] += 1
        if exchange.first_byte_seconds is None:
            return
        counts.histogram("answer_seconds").add(exchange.seconds())
        if exchange.pieces is not None:
            counts.histogram("time_to_first_token_seconds").add(exchange.first_byte_seconds)
            counts.histogram("inter_token_seconds").add_all(exchange.pieces.gaps)
        if exchange.usage is not None:
            prompt, completion = exchange.usage
            counts.tokens["prompt_tokens_total"] += prompt
            counts.tokens["completion_tokens_total"] += completion
        elif exchange.outcome == "answered" and exchange.status == 200:
            counts.tokens["answers_without_usage_total"] += 1

    def render(
        self, *, log_lines_dropped: int, outstanding: Mapping[str, int] | None = None, project: str = ""
    ) -> str:
        """Return the page for `GET /metrics`.

        Args:
            log_lines_dropped: Lines of the access log that were not written.
            outstanding: Requests that each engine works on, by its address.
            project: Whose models are shown, and nothing beside; empty: everything.
        """
        shown = {
            labels: counts
            for labels, counts in sorted(self._models.items(), key=lambda item: str(item[0]))
            if not project or labels.project == project
        }
        lines = list(_of_models(shown))
        if not project:
            lines += self._of_gateway(log_lines_dropped, outstanding or {})
        return "\n".join(lines) + "\n"

    def _of(self, exchange: Exchange) -> _Counts:
        route = exchange.route
        labels = _Labels() if route is None else _Labels(route.project, route.model, route.engine_model)
        counts = self._models.pop(labels, None) or _Counts()
        if len(self._models) >= _MOST_MODELS:
            del self._models[next(iter(self._models))]
        self._models[labels] = counts  # at the end: what was asked last is kept longest
        return counts

    def _of_gateway(self, log_lines_dropped: int, outstanding: Mapping[str, int]) -> Iterator[str]:
        yield from _head("requests_in_flight", "gauge", "Requests that are being passed on.")
        yield _sample("requests_in_flight", {}, self.in_flight)
        yield from _head(
            "engine_requests_outstanding", "gauge", "Requests that an engine works on for this gateway."
        )
        for address, count in sorted(outstanding.items()):
            yield _sample("engine_requests_outstanding", {"engine": address}, count)
        yield from _head("log_lines_dropped_total", "counter", "Access log lines that were not written.")
        yield _sample("log_lines_dropped_total", {}, log_lines_dropped)


def _of_models(shown: Mapping[_Labels, _Counts]) -> Iterator[str]:
    named = [(_named(labels), counts) for labels, counts in shown.items()]
    yield from _head("requests_total", "counter", "Requests by status and how they ended; 499: client gone.")
    for labels, counts in named:
        for (status, outcome), count in sorted(counts.requests.items()):
            yield _sample("requests_total", {**labels, "status": str(status), "outcome": outcome}, count)
    for name, text in _TOKENS.items():
        yield from _head(name, "counter", text)
        for labels, counts in named:
            if name in counts.tokens:
                yield _sample(name, labels, counts.tokens[name])
    for name, text in _HISTOGRAMS.items():
        yield from _head(name, "histogram", text)
        for labels, counts in named:
            if name in counts.times:
                yield from _histogram(name, labels, counts.times[name])


def _named(labels: _Labels) -> Mapping[str, str]:
    return {"project": labels.project, "model": labels.model, "adapter": labels.adapter}


def _histogram(name: str, labels: Mapping[str, str], histogram: Histogram) -> Iterator[str]:
    total = 0
    bounds = [*(str(bound) for bound in TIME_BUCKETS_SECONDS), "+Inf"]
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count  # buckets of Prometheus are cumulative
        yield _sample(f"{name}_bucket", {**labels, "le": bound}, total)
    yield _sample(f"{name}_sum", labels, round(histogram.seconds, 6))
    yield _sample(f"{name}_count", labels, total)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {text}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{_PREFIX}{name}{{{pairs}}} {value}" if pairs else f"{_PREFIX}{name} {value}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
