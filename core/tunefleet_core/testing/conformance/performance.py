"""Performance smoke: a few times, reported and never asserted."""

from __future__ import annotations

import time

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.openai_http import chat_body, post

__all__ = ["Performance"]

_CALLS = 50


class Performance(Suite):
    """Times for people who compare two versions of one backend."""

    @case()
    async def test_how_long_a_call_takes_is_reported(self, bench: Bench) -> None:
        start = time.perf_counter()
        for _ in range(_CALLS):
            await bench.call("GetBackend", pb.GetBackendRequest())
        _report(bench, "call_seconds", (time.perf_counter() - start) / _CALLS)

    @case(Capability.CAPABILITY_TRAIN)
    async def test_how_long_the_first_step_takes_is_reported(self, bench: Bench) -> None:
        order = bench.orders.endless_run()
        start = time.perf_counter()
        async with bench.working(order, step=1):
            _report(bench, "first_step_seconds", time.perf_counter() - start)
            start = time.perf_counter()
            await bench.stop(order.run)
            _report(bench, "cancel_seconds", time.perf_counter() - start)

    @case(Capability.CAPABILITY_SERVE)
    async def test_how_long_an_answer_takes_is_reported(self, bench: Bench) -> None:
        address = (await bench.engine()).address
        start = time.perf_counter()
        for _ in range(5):
            await post(address, chat_body("tiny", max_tokens=8))
        _report(bench, "answer_seconds", (time.perf_counter() - start) / 5)


def _report(bench: Bench, name: str, seconds: float) -> None:
    bench.times[f"{bench.transport}.{name}"] = seconds
    print(f"{bench.profile.backend} over {bench.transport}: {name} {seconds:.4f}")
