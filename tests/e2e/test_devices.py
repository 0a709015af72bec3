"""A job for several devices of one host: booked, spread, killed, resumed, cancelled with proof."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from chaos_fleet import assert_whole
from local_fleet import LocalFleet, missing_backend, tickets_job

from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.worker.marker import marked_processes

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,  # every attempt imports the libraries twice; ranks are proven fast with a light one
    pytest.mark.timeout(1800),
    pytest.mark.asyncio(loop_scope="module"),
]

_LIMIT_SECONDS = 600.0  # two processes that import at once share the cores of a small host
_EVERY = 4
_STEPS = 12
_BACKENDS = ("trl", "deepspeed")
"""Those that spread a run, each in its own way: gradients are exchanged, or everything is split."""
_TWO = ("resources.devices=2", "train.optim.micro_batch_size=4")  # of the 8 rows of a step each takes 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[LocalFleet]:
    """A fleet whose trainer offers the processor as two devices."""
    if missing := missing_backend("trl"):
        pytest.skip(missing)
    root = Path(tempfile.mkdtemp(prefix="tf-e2e-", dir="/tmp"))  # unix sockets need short paths
    running = LocalFleet(root, extra={"TUNEFLEET_CPU_DEVICES": "2"})
    try:
        await running.start()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)


def _ranks(mark: str) -> list[psutil.Process]:
    """Return the rank processes of an attempt, the first one first: its spare was there before the run."""
    found = [item for item in marked_processes(mark) if "tunefleet_core.worker.rank" in item.cmdline()]
    return sorted(found, key=lambda item: (item.create_time(), item.pid))


def _is_step_of(attempt: int, step: int) -> Callable[[JobEvent], bool]:
    return lambda event: event.attempt == attempt and event.metrics.step >= step


@pytest.mark.parametrize("backend", _BACKENDS)
async def test_a_killed_process_of_two_costs_an_attempt_and_no_step(pair: LocalFleet, backend: str) -> None:
    if missing := missing_backend(backend):
        pytest.skip(missing)
    spec = tickets_job(
        f"backend={backend}", f"train.checkpoint.every_steps={_EVERY}", *_TWO, max_steps=_STEPS
    )
    async with pair.client() as client:
        job = await client.jobs.create(spec)
        async with pair.watching(client, job.name) as timeline:
            started = await timeline.wait_for(lambda event: event.HasField("attempt_started"))
            assert sorted(started.attempt_started.device_ids) == ["cpu-0", "cpu-1"]
            await timeline.wait_for(lambda event: event.HasField("checkpoint_committed"), _LIMIT_SECONDS)
            run = pair.run_of(job)
            assert run is not None
            first, second = _ranks(run.mark)
            os.kill(second.pid, signal.SIGKILL)
            again = await timeline.wait_for(
                lambda event: event.HasField("attempt_started") and event.attempt == 2, _LIMIT_SECONDS
            )
            assert again.attempt_started.resume_from.step >= _EVERY
            assert not first.is_running()
            await timeline.wait_for(_is_step_of(2, _STEPS), _LIMIT_SECONDS)
        ended, events = await pair.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED
    assert ended.attempt == 2
    assert_whole(events)
    steps = {event.metrics.step for event in events if event.metrics.HasField("loss")}
    assert steps == set(range(1, _STEPS + 1))


@pytest.mark.parametrize("backend", _BACKENDS)
async def test_a_cancel_of_two_processes_leaves_none(pair: LocalFleet, backend: str) -> None:
    if missing := missing_backend(backend):
        pytest.skip(missing)
    async with pair.client() as client:
        job = await client.jobs.create(tickets_job(f"backend={backend}", *_TWO, max_steps=2000))
        async with pair.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_step_of(1, 2), _LIMIT_SECONDS)
        run = pair.run_of(job)
        assert run is not None
        assert len(_ranks(run.mark)) == 2
        await client.jobs.cancel(job.name)
        ended, events = await pair.finish(client, job.name)
    assert ended.state == JobState.JOB_STATE_CANCELLED
    assert marked_processes(run.mark) == []
    assert sum(event.HasField("device_released") for event in events) == 1


@pytest.mark.parametrize(
    ("overrides", "reason", "said"),
    [
        (
            ("resources.devices=4", "train.optim.micro_batch_size=2"),
            Reason.FIELD_INVALID,
            "the best trainer of the fleet has 2",
        ),
        (("resources.devices=3",), Reason.FIELD_INVALID, "which 3 devices cannot share evenly"),
        (
            ("resources.devices=2", "train.optim.batch_size=4", "train.optim.micro_batch_size=4"),
            Reason.FIELD_INVALID,
            "must divide the 2 rows",
        ),
    ],
)
async def test_what_cannot_be_spread_is_refused_at_submit(
    pair: LocalFleet, overrides: tuple[str, ...], reason: Reason, said: str
) -> None:
    async with pair.client() as client:
        with pytest.raises(TunefleetError, match=said) as caught:
            await client.jobs.create(tickets_job(*overrides))
    assert caught.value.reason is reason
