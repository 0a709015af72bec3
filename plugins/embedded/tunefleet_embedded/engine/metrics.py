"""Counters of the engine in Prometheus text form, without a client library."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from dataclasses import dataclass, field

_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_JOIN_STEPS = (0, 1, 2, 4, 8, 16, 64)
_PREFILL_TOKENS = (16, 64, 128, 256, 512, 1024, 2048)


class Histogram:
    """Cumulative buckets as Prometheus wants them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        total, out = 0, []
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            out.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*out, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


@dataclass(slots=True)
class Metrics:
    """Written by the scheduler thread, except `requests` (written by the loop); read by the loop."""

    running: int = 0
    waiting: int = 0
    decode_steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cancelled: int = 0
    adapters: int = 0
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    first_token_seconds: Histogram = field(default_factory=lambda: Histogram(_FIRST_TOKEN_SECONDS))
    join_steps: Histogram = field(default_factory=lambda: Histogram(_JOIN_STEPS))
    prefill_tokens: Histogram = field(default_factory=lambda: Histogram(_PREFILL_TOKENS))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def render(self) -> str:
        """The text of GET /metrics."""
        out: list[str] = []
        for name, kind, help_text, value in (
            ("requests_running", "gauge", "Choices being decoded.", self.running),
            ("requests_waiting", "gauge", "Choices waiting for a row.", self.waiting),
            ("decode_steps_total", "counter", "Decode steps taken.", self.decode_steps),
            ("prompt_tokens_total", "counter", "Prompt tokens read.", self.prompt_tokens),
            ("generation_tokens_total", "counter", "Tokens generated.", self.generated_tokens),
            ("requests_cancelled_total", "counter", "Choices given up by their client.", self.cancelled),
            ("adapters_loaded", "gauge", "Adapters that can be asked for.", self.adapters),
        ):
            out += _header(name, kind, help_text)
            out.append(f"tunefleet_engine_{name} {value}")
        with self.lock:
            out += _header("time_to_first_token_seconds", "histogram", "From arrival to the first token.")
            out += self.first_token_seconds.lines("tunefleet_engine_time_to_first_token_seconds")
            out += _header(
                "join_steps", "histogram", "Decode steps of others between arrival and the own prefill."
            )
            out += self.join_steps.lines("tunefleet_engine_join_steps")
            out += _header(
                "prefill_tokens", "histogram", "Prompt tokens read between two decode steps, per forward."
            )
            out += self.prefill_tokens.lines("tunefleet_engine_prefill_tokens")
        out += _header("requests_total", "counter", "Answered requests by model and outcome.")
        for (model, outcome), count in sorted(self.requests.items()):
            out.append(
                f'tunefleet_engine_requests_total{{model="{_escape(model)}",outcome="{outcome}"}} {count}'
            )
        return "\n".join(out) + "\n"


def _header(name: str, kind: str, help_text: str) -> list[str]:
    return [f"# HELP tunefleet_engine_{name} {help_text}", f"# TYPE tunefleet_engine_{name} {kind}"]


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
