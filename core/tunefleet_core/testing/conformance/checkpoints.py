"""Checkpoint and Pause: what was saved is whole, and a resumed run ends as one never stopped."""

from __future__ import annotations

from pathlib import Path

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.testing.conformance.bench import Bench, in_words
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.identity import TIMES
from tunefleet_core.testing.conformance.orders import ENDLESS_STEPS, EVERY_STEPS, STEPS
from tunefleet_core.testing.conformance.profile import Transport
from tunefleet_core.testing.conformance.shared_runs import paused_run, resumed, resumed_run, whole_run
from tunefleet_core.testing.conformance.transports import worker_process

__all__ = ["Checkpoint", "Pause", "SaveOnRequest"]

_RESUME = (Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_CHECKPOINT_RESUME)
_ON_REQUEST = (*_RESUME, Capability.CAPABILITY_CHECKPOINT_ON_REQUEST)
_SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED


class Checkpoint(Suite):
    """Checkpoints of a run, and runs that begin at one."""

    @case(*_RESUME)
    async def test_checkpoints_are_whole_and_told(self, bench: Bench) -> None:
        ended = await bench.shared(whole_run)
        events = await bench.events(ended.order.run)
        told = [event.checkpoint_saved for event in events if event.checkpoint_saved.path]
        assert [saved.step for saved in told] == [saved.step for saved in ended.run.checkpoints]
        assert {EVERY_STEPS, 2 * EVERY_STEPS} <= {saved.step for saved in ended.run.checkpoints}
        for saved in ended.run.checkpoints:
            assert any((ended.work / saved.path).rglob("*")), f"{saved.path} is empty"

    @case(*_RESUME)
    async def test_a_resumed_run_ends_as_one_that_was_not_stopped(self, bench: Bench) -> None:
        again = await bench.shared(resumed_run)
        assert again.run.outcome == _SUCCEEDED, in_words(again.run)
        whole = await bench.shared(whole_run)
        assert bench.output_digests(again.order) == bench.output_digests(whole.order)

    @case(*_RESUME, is_error=True)
    async def test_a_resumed_run_does_no_step_twice(self, bench: Bench) -> None:
        events = await bench.events((await bench.shared(resumed_run)).order.run)
        told = [event.metrics for event in events if event.metrics.HasField("loss")]
        assert [metrics.step for metrics in told] == list(range(EVERY_STEPS + 1, STEPS + 1))

    @case(*_RESUME, is_error=True)
    async def test_an_unreadable_checkpoint_fails_the_run(self, bench: Bench) -> None:
        empty = bench.folder / "empty-checkpoint"
        empty.mkdir(exist_ok=True)
        order = bench.orders.run()
        order.resume_from, order.resume_step = str(empty), EVERY_STEPS
        run = await bench.finish(order)
        assert run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED, "it began anew without a word"
        assert run.error.message

    @case(*_RESUME, is_error=True, transports=(Transport.WORKER,))
    async def test_a_run_whose_worker_was_killed_ends_as_if_it_was_not(self, bench: Bench) -> None:
        whole = (await bench.shared(whole_run)).order
        killed = bench.orders.run()
        async with worker_process(bench.profile) as worker:
            with bench.on(worker.calls):
                await bench.start(killed)
                await bench.until(killed.run, lambda event: event.checkpoint_saved.step >= EVERY_STEPS)
            worker.process.kill()
            await worker.process.wait()
        again = bench.orders.run()
        again.resume_from = str(sorted((Path(killed.work_dir) / "checkpoints").glob("step-*"))[0])
        again.resume_step = EVERY_STEPS
        ended = await bench.finish(again)
        assert ended.outcome == _SUCCEEDED, in_words(ended)
        assert bench.output_digests(again) == bench.output_digests(whole)


class SaveOnRequest(Suite):
    """SaveRun: a checkpoint now, and the run goes on."""

    @case(*_ON_REQUEST)
    async def test_a_checkpoint_is_written_on_request_and_the_run_goes_on(self, bench: Bench) -> None:
        order = bench.orders.endless_run()
        order.resolved_spec.spec.train.checkpoint.every_steps = ENDLESS_STEPS
        async with bench.working(order, step=1):
            for _ in range(TIMES):  # asked again, it is the same request
                await bench.call("SaveRun", pb.SaveRunRequest(run=order.run, number=1))
            first = (await _saved_after(bench, order, 0)).checkpoint_saved
            assert any((Path(order.work_dir) / first.path).rglob("*")), f"{first.path} is empty"
            await bench.until_step(order.run, first.step + 2)
            steps = [saved.step for saved in (await bench.get(order.run)).checkpoints]
            assert steps == [first.step], "one request is answered by one checkpoint"
            await bench.call("SaveRun", pb.SaveRunRequest(run=order.run, number=2))
            assert (await _saved_after(bench, order, first.step)).checkpoint_saved.step > first.step

    @case(*_ON_REQUEST)
    async def test_a_run_that_was_saved_on_request_ends_as_one_that_was_not(self, bench: Bench) -> None:
        whole, saved = (await bench.shared(whole_run)).order, bench.orders.run()
        await bench.start(saved)
        await bench.call("SaveRun", pb.SaveRunRequest(run=saved.run, number=1))
        await bench.events(saved.run)
        assert bench.output_digests(saved) == bench.output_digests(whole)

    @case(*_ON_REQUEST, is_error=True)
    async def test_a_request_to_an_ended_run_changes_nothing(self, bench: Bench) -> None:
        ended = await bench.shared(whole_run)
        answer = await bench.call("SaveRun", pb.SaveRunRequest(run=ended.order.run, number=9))
        assert answer.run == ended.run

    @case(*_ON_REQUEST, is_error=True)
    async def test_a_request_to_an_unknown_run_is_refused(self, bench: Bench) -> None:
        refused = await bench.refusal("SaveRun", pb.SaveRunRequest(run="nobody-1", number=1))
        assert (refused.code, refused.reasons) == ("NOT_FOUND", ["JOB_NOT_FOUND"]), refused


async def _saved_after(bench: Bench, order: RunOrder, step: int) -> JobEvent:
    return await bench.until(order.run, lambda event: event.checkpoint_saved.step > step)


class Pause(Suite):
    """STOP_MODE_SAVE: the device is given back, the work is not lost."""

    @case(*_RESUME)
    async def test_a_paused_run_has_saved_where_it_was(self, bench: Bench) -> None:
        paused = await bench.shared(paused_run)
        run = paused.run
        assert run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_PAUSED, in_words(run)
        assert run.checkpoints[-1].step > EVERY_STEPS, "no checkpoint was written for the pause"
        assert any((paused.work / run.checkpoints[-1].path).rglob("*"))
        assert not run.HasField("output")

    @case(*_RESUME)
    async def test_a_paused_run_goes_on_exactly(self, bench: Bench) -> None:
        steps = 10 * STEPS
        whole, paused = bench.orders.run(steps=steps), bench.orders.run(steps=steps)
        await bench.finish(whole)
        async with bench.working(paused, step=2):
            run = await bench.stop(paused.run, StopMode.STOP_MODE_SAVE)
        assert run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_PAUSED, in_words(run)
        again = resumed(bench, paused, run, step=run.checkpoints[-1].step)
        ended = await bench.finish(again)
        assert ended.outcome == _SUCCEEDED, in_words(ended)
        assert bench.output_digests(again) == bench.output_digests(whole)

    @case(*_RESUME, is_error=True)
    async def test_a_paused_run_can_be_paused_and_cancelled_again(self, bench: Bench) -> None:
        paused = await bench.shared(paused_run)
        for mode in (StopMode.STOP_MODE_SAVE, StopMode.STOP_MODE_CANCEL):
            again = await bench.stop(paused.order.run, mode)
            assert (again.outcome, again.checkpoints) == (paused.run.outcome, paused.run.checkpoints)

    @case(*_RESUME, is_error=True)
    async def test_a_pause_that_becomes_a_cancel_ends_the_run(self, bench: Bench) -> None:
        paused = await bench.shared(paused_run)
        assert (await bench.stop(paused.order.run)).outcome == AttemptOutcome.ATTEMPT_OUTCOME_PAUSED
