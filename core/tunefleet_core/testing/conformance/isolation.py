"""Isolation: a worker keeps to itself and takes everything along when it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress

import pytest

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.calls import Refused
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.profile import Transport
from tunefleet_core.testing.conformance.transports import Worker, worker_process
from tunefleet_core.worker.marker import marked_processes

__all__ = ["Isolation"]

_TRAIN = Capability.CAPABILITY_TRAIN
_PROCESS = (Transport.WORKER,)
_TERM_SECONDS = 10.0
_SETTLE_SECONDS = 5.0
_SHORT_LEASE_SECONDS = 2.0
_HEAVY = ["torch", "transformers", "mlx", "vllm", "sglang", "jax", "tensorflow", "deepspeed", "numpy"]
_DESCRIBE = (
    "import sys, json\nfrom tunefleet_core.plugins import find_backend\n"
    "find_backend(sys.argv[1])\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
)


class Isolation(Suite):
    """What a worker process does to the machine it runs on."""

    @case(transports=_PROCESS)
    async def test_describing_it_imports_nothing_heavy(self, bench: Bench) -> None:
        if bench.profile.command:
            pytest.skip("it does not use the Python base, so nothing imports its plugin")
        process = await asyncio.create_subprocess_exec(
            bench.profile.python, "-c", _DESCRIBE, bench.profile.backend, stdout=asyncio.subprocess.PIPE
        )
        stdout, _ = await process.communicate()
        imported = set(json.loads(stdout.splitlines()[-1]))
        assert imported.isdisjoint(_HEAVY), "import it where it is used, not at the top of the plugin"

    @case(is_error=True, transports=_PROCESS)
    async def test_the_worker_prints_nothing_to_standard_output(self, bench: Bench) -> None:
        async with worker_process(bench.profile) as worker:
            with suppress(Refused):
                await worker.calls.unary("GetRun", pb.GetRunRequest(run="nobody"))
            assert worker.printed() == ""

    @case(_TRAIN, is_error=True, transports=_PROCESS)
    async def test_a_run_that_ended_leaves_no_process(self, bench: Bench) -> None:
        async with worker_process(bench.profile) as worker:
            with bench.on(worker.calls):
                await bench.finish(bench.orders.run())
            left = worker.descendants()
            for _ in range(round(_SETTLE_SECONDS / 0.1)):  # what is just ending may do so
                if not left:
                    break
                await asyncio.sleep(0.1)
                left = worker.descendants()
        assert not left, f"processes outlived their run: {left}"

    @case(_TRAIN, is_error=True, transports=_PROCESS)
    async def test_a_terminated_worker_takes_everything_along(self, bench: Bench) -> None:
        async with worker_process(bench.profile) as worker:
            with bench.on(worker.calls):
                await _begin(bench)
            worker.process.send_signal(signal.SIGTERM)
            await _gone(worker, _TERM_SECONDS)

    @case(_TRAIN, is_error=True, transports=_PROCESS)
    async def test_a_killed_worker_leaves_no_orphan(self, bench: Bench) -> None:
        async with worker_process(bench.profile) as worker:
            with bench.on(worker.calls):
                await _begin(bench)
            worker.process.kill()
            await _gone(worker, _TERM_SECONDS)

    @case(_TRAIN, is_error=True, transports=_PROCESS)
    async def test_a_worker_that_nobody_owns_ends_by_itself(self, bench: Bench) -> None:
        async with worker_process(bench.profile, lease_seconds=_SHORT_LEASE_SECONDS) as worker:
            with bench.on(worker.calls):
                await _begin(bench)
            await _gone(worker, _SHORT_LEASE_SECONDS + 2 * _TERM_SECONDS)


async def _begin(bench: Bench) -> None:
    """Start a run and wait for its first step, showing signs of life as its owner would."""
    order = bench.orders.endless_run()
    await bench.start(order)
    async with asyncio.TaskGroup() as group:
        first_step = group.create_task(bench.until_step(order.run, 1))
        while not first_step.done():
            await bench.get(order.run)
            await asyncio.wait((first_step,), timeout=_SHORT_LEASE_SECONDS / 4)


async def _gone(worker: Worker, limit_seconds: float) -> None:
    """Wait until the worker and all it started have ended."""
    try:
        async with asyncio.timeout(limit_seconds * max(1.0, _load())):
            await worker.process.wait()
            while await asyncio.to_thread(marked_processes, worker.mark):
                await asyncio.sleep(0.1)
    except TimeoutError:
        left = worker.descendants()
        state = "lives" if worker.process.returncode is None else "ended"
        raise AssertionError(f"after {limit_seconds:.0f} s the worker {state}, left are: {left}") from None


def _load() -> float:
    """Return how many processes want each core: a promise in seconds is for a core to spare."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)
