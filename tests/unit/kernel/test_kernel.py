"""Group commit: every caller gets the answer of its own input, and only what is durable is seen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.store import Store
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Accepted, Change, JobRow, Policy, RowChange
from tunefleet_core.testing import samples


class GatedStore(Store):
    """A real store whose commits wait for a gate, and can be made to fail."""

    gate: threading.Event
    entered: threading.Event
    batches: list[int]
    failures: list[TunefleetError | None]

    def shut(self) -> None:
        """Let the next commit begin, but not go on."""
        self.entered.clear()
        self.gate.clear()

    def commit(self, batch: Sequence[Sequence[Change]]) -> list[TunefleetError | None]:
        self.entered.set()
        self.gate.wait(30)
        self.batches.append(len(batch))
        if self.failures and (error := self.failures.pop(0)) is not None:
            return [error] * len(batch)
        return super().commit(batch)


@pytest.fixture
def gated(path: Path) -> Any:
    store = GatedStore.open(path)
    assert isinstance(store, GatedStore)
    store.gate, store.entered = threading.Event(), threading.Event()
    store.batches, store.failures = [], []
    store.gate.set()
    yield store
    store.gate.set()
    store.close()


@pytest.fixture
async def gated_kernel(gated: GatedStore, clock: Any) -> Any:
    kernel = Kernel(gated, Policy(lease_term_seconds=0.2), clock)
    task = asyncio.ensure_future(kernel.run())
    await kernel.ready()
    yield kernel
    gated.gate.set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_one_request_sent_many_times_at_once_makes_one_job(kernel: Kernel) -> None:
    sent = [samples.submit(0, f"name-{index}", request_id="same") for index in range(100)]

    answers = await asyncio.gather(*(kernel.submit(event) for event in sent))

    accepted = [answer for answer in answers if isinstance(answer, Accepted)]
    assert len(accepted) == 100
    assert len({answer.name for answer in accepted}) == 1
    assert sum(not answer.is_repetition for answer in accepted) == 1
    assert len(kernel.store.list_jobs("default", page_size=500).items) == 1


async def test_many_different_submits_are_all_kept_in_order(kernel: Kernel) -> None:
    names = [f"job-{index}" for index in range(300)]

    await asyncio.gather(*(kernel.submit(samples.submit(0, name, request_id=name)) for name in names))

    page = kernel.store.list_jobs("default", page_size=500)
    assert [job.job_id for job in page.items] == names[::-1]


async def test_one_name_taken_many_times_at_once_is_given_once(kernel: Kernel) -> None:
    sent = [samples.submit(0, "same", uid=f"u{i}", request_id=f"r{i}") for i in range(50)]

    answers = await asyncio.gather(*(kernel.submit(event) for event in sent), return_exceptions=True)

    refused = [answer for answer in answers if isinstance(answer, TunefleetError)]
    assert len(refused) == 49
    assert {error.reason for error in refused} == {Reason.JOB_EXISTS}


async def test_a_group_gathers_while_another_is_committed(gated: GatedStore, gated_kernel: Kernel) -> None:
    gated.shut()
    first = asyncio.ensure_future(gated_kernel.submit(samples.submit(0, "first")))
    assert await asyncio.to_thread(gated.entered.wait, 30)
    rest = [
        asyncio.ensure_future(gated_kernel.submit(samples.submit(0, f"job-{index}"))) for index in range(40)
    ]
    await asyncio.sleep(0.05)
    assert not first.done()
    gated.gate.set()
    await asyncio.gather(first, *rest)

    assert gated.batches == [1, 40]


async def test_nobody_sees_what_is_not_durable_yet(gated: GatedStore, gated_kernel: Kernel) -> None:
    await gated_kernel.submit(samples.submit(0))
    with gated_kernel.subscribe_service("services/a") as signal:
        gated.shut()
        attaching = asyncio.ensure_future(gated_kernel.submit(samples.attached(0)))
        assert await asyncio.to_thread(gated.entered.wait, 30)
        looking = asyncio.ensure_future(gated_kernel.desired("services/a"))
        assert not await signal.wait(0.05)
        assert not looking.done()
        assert not attaching.done()
        gated.gate.set()
        await attaching
        assert await signal.wait(5)
        view = await looking

    assert [item.job.job_id for item in view.assignments] == ["job"]


async def test_a_full_disk_fails_what_writes_and_nothing_else(
    gated: GatedStore, gated_kernel: Kernel
) -> None:
    await gated_kernel.submit(samples.attached(0))
    gated.failures += [TunefleetError(Reason.DISK_FULL, "Full.")] * 2
    events = [samples.submit(1, "one"), samples.heartbeat(1), samples.submit(1, "one", uid="again")]

    answers = await asyncio.gather(*(gated_kernel.submit(item) for item in events), return_exceptions=True)

    full = [answer.reason for answer in answers if isinstance(answer, TunefleetError)]
    assert full == [Reason.DISK_FULL, Reason.DISK_FULL], "the second submit was decided again, then failed"
    assert not isinstance(answers[1], BaseException), "a heartbeat writes nothing"
    heard = await gated_kernel.observe(lambda world: world.services()[0].last_heard)
    assert heard == 1
    assert await gated_kernel.observe(lambda world: (world.jobs(), len(world.queue))) == ([], 0)
    accepted = await gated_kernel.submit(samples.submit(2, "one"))
    assert isinstance(accepted, Accepted)
    assert not accepted.is_repetition


async def test_a_row_changed_behind_the_kernel_is_read_again(kernel: Kernel) -> None:
    await kernel.submit(samples.submit(0, "one"))
    await kernel.submit(samples.submit(0, "two"))
    mine = await kernel.observe(lambda world: world.job("uid-of-one"))
    assert mine is not None
    foreign = replace(mine, version=mine.version + 1, failures=2)
    assert kernel.store.commit([[RowChange(old=mine, new=foreign)]]) == [None]

    answers = await asyncio.gather(*(kernel.submit(samples.cancel(1, name)) for name in ("one", "two")))

    jobs = [answer for answer in answers if isinstance(answer, JobRow)]
    assert [job.state for job in jobs] == [JobState.JOB_STATE_CANCELLED] * 2
    assert jobs[0].failures == 2, "decided on what the store had"
    assert jobs[0].version > foreign.version


async def test_a_lost_lease_is_noticed_by_the_timer(kernel: Kernel, clock: Any) -> None:
    await kernel.submit(samples.attached(0))
    await kernel.submit(samples.submit(0))
    with kernel.subscribe_job("uid-of-job") as signal:
        for _ in range(500):
            clock.now += 0.02  # in steps: a jump would be taken for the coordinator's own absence
            if await signal.wait(0.04):
                break
    job = await kernel.observe(lambda world: world.job("uid-of-job"))
    assert job is not None
    assert job.state == JobState.JOB_STATE_WAITING_RETRY


async def test_a_coordinator_that_slept_blames_nobody(kernel: Kernel, clock: Any) -> None:
    await kernel.submit(samples.attached(0))
    await kernel.submit(samples.submit(0))
    clock.now = 1000.0
    await asyncio.sleep(0.1)

    attempt = await kernel.observe(lambda world: world.live_attempt("uid-of-job"))

    assert attempt is not None
    assert attempt.lease_expires == pytest.approx(1000.2)


async def test_a_restart_finds_everything_and_renews_leases(path: Path, clock: Any) -> None:
    store = Store.open(path)
    first = Kernel(store, Policy(), clock)
    task = asyncio.ensure_future(first.run())
    await first.ready()
    await first.submit(samples.attached(0))
    await first.submit(samples.submit(0, "running"))
    await first.submit(samples.submit(0, "waiting"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.close()
    clock.now = 500.0

    store = Store.open(path)
    second = Kernel(store, Policy(), clock)
    task = asyncio.ensure_future(second.run())
    await second.ready()
    attempt = await second.observe(lambda world: world.live_attempt("uid-of-running"))
    assert attempt is not None
    assert attempt.lease_expires == 500.0 + second.policy.lease_term_seconds
    assert await second.observe(lambda world: list(world.queue.uids())) == ["uid-of-waiting"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.close()


async def test_a_stopped_kernel_says_so_to_everyone(gated: GatedStore, clock: Any) -> None:
    kernel = Kernel(gated, Policy(), clock)
    task = asyncio.ensure_future(kernel.run())
    await kernel.ready()
    gated.shut()
    waiting = [asyncio.ensure_future(kernel.submit(samples.submit(0, f"job-{index}"))) for index in range(5)]
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    gated.gate.set()
    answers = await asyncio.gather(task, *waiting, return_exceptions=True)

    errors = [answer for answer in answers[1:] if isinstance(answer, TunefleetError)]
    assert [error.reason for error in errors] == [Reason.UNAVAILABLE] * 5
    with pytest.raises(TunefleetError):
        await kernel.submit(samples.submit(0, "late"))


async def test_a_fault_of_the_core_costs_its_input_only(kernel: Kernel) -> None:
    broken = replace(samples.submit(0, "broken"), required_labels=3)  # type: ignore[arg-type]

    answers = await asyncio.gather(
        kernel.submit(broken), kernel.submit(samples.submit(0, "sound")), return_exceptions=True
    )

    assert isinstance(answers[0], TunefleetError)
    assert answers[0].reason is Reason.INTERNAL
    assert isinstance(answers[1], Accepted)


async def _failed_once(kernel: Kernel, clock: Any) -> JobRow:
    """Return a job that waits for its second try."""
    await kernel.submit(samples.attached(clock.now))
    await kernel.submit(samples.submit(clock.now))
    attempt = await kernel.observe(lambda world: world.live_attempt("uid-of-job"))
    assert attempt is not None
    failed = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    status = samples.attempt_status(attempt, outcome=failed, error=samples.failure(Reason.INTERNAL))
    await kernel.submit(samples.report(clock.now, status))
    job = await kernel.observe(lambda world: world.job("uid-of-job"))
    assert job is not None
    assert job.state == JobState.JOB_STATE_WAITING_RETRY
    return job


async def test_a_retry_comes_at_its_time_and_not_at_the_next_tick(path: Path, clock: Any) -> None:
    store = Store.open(path)
    kernel = Kernel(store, Policy(lease_term_seconds=1000.0, backoff_base_seconds=0.5), clock)
    task = asyncio.ensure_future(kernel.run())
    await kernel.ready()
    clock.now = 7.0
    job = await _failed_once(kernel, clock)
    assert job.not_before == 7.5
    with kernel.subscribe_job(job.uid) as signal:
        while clock.sleeps_until[-1] != 7.5:  # the timer was asleep for longer and has to hear of it
            await asyncio.sleep(0.001)
        clock.now = 7.4
        assert not await signal.wait(0.05)
        clock.now = 7.5
        assert await signal.wait(10)
    again = await kernel.observe(lambda world: world.job(job.uid))
    assert again is not None
    assert again.state == JobState.JOB_STATE_PREPARING
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.close()


async def test_a_history_beyond_its_bound_loses_its_oldest_events(path: Path, clock: Any) -> None:
    store = Store.open(path)
    kernel = Kernel(store, Policy(history_events=100), clock)
    task = asyncio.ensure_future(kernel.run())
    await kernel.ready()
    await kernel.submit(samples.attached(0))
    await kernel.submit(samples.submit(0))
    attempt = await kernel.observe(lambda world: world.live_attempt("uid-of-job"))
    assert attempt is not None
    with kernel.subscribe_job("uid-of-job") as signal:
        for start in range(1, 501, 10):
            await kernel.submit(samples.events(0, attempt, *range(start, start + 10)))
        while (job := store.get_job_by_uid("uid-of-job")) and job.last_sequence - job.oldest_sequence > 100:
            assert await signal.wait(10)
    assert job is not None
    events = store.read_events(job.uid, 0)
    assert [event.sequence for event in events] == list(range(job.oldest_sequence, job.last_sequence + 1))
    assert 80 <= len(events) <= 100
    assert job.history_bytes == sum(event.ByteSize() + 2 for event in events)
    assert await kernel.observe(lambda world: world.job("uid-of-job")) is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.close()


async def test_a_read_of_a_stream_that_outlives_the_kernel_says_that_it_stops(path: Path) -> None:
    store = Store.open(path)
    kernel = Kernel(store, Policy())
    task = asyncio.ensure_future(kernel.run())
    await kernel.ready()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(TunefleetError) as raised:
        await kernel.read(store.get_job, "projects/default/jobs/job")
    assert raised.value.reason is Reason.UNAVAILABLE
    store.close()
