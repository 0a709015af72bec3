"""TrainerLifecycle, TrainerIdempotency and TrainerCancellation: a run from start to end."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.run_pb2 import RunState, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, RunPhase
from tunefleet_core.testing.conformance.bench import Bench, in_words
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.identity import TIMES
from tunefleet_core.testing.conformance.orders import STEPS
from tunefleet_core.testing.conformance.shared_runs import cancelled_run, whole_run

__all__ = ["Evaluation", "TrainerCancellation", "TrainerIdempotency", "TrainerLifecycle"]

_TRAIN = Capability.CAPABILITY_TRAIN
_SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
_CANCELLED = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED


class TrainerLifecycle(Suite):
    """A run that is left alone."""

    @case(_TRAIN)
    async def test_a_run_ends_with_an_output(self, bench: Bench) -> None:
        ended = await bench.shared(whole_run)
        assert ended.run.outcome == _SUCCEEDED, in_words(ended.run)
        assert ended.run.output.step == STEPS
        assert ended.run.output.kind != ArtifactKind.ARTIFACT_KIND_UNSPECIFIED
        assert bench.output_digests(ended.order), f"{ended.work}/output holds no file"

    @case(_TRAIN)
    async def test_a_run_is_shown_while_it_works(self, bench: Bench) -> None:
        one = await bench.shared(cancelled_run)
        assert (one.before.name, one.before.state) == (one.order.run, RunState.RUN_STATE_RUNNING)
        assert one.before.outcome == AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED

    @case(_TRAIN)
    async def test_phases_begin_with_the_start_and_reach_the_work(self, bench: Bench) -> None:
        events = await bench.events((await bench.shared(whole_run)).order.run)
        phases = [event.phase_changed.phase for event in events if event.HasField("phase_changed")]
        assert phases[0] == RunPhase.RUN_PHASE_STARTING
        assert RunPhase.RUN_PHASE_WORKING in phases
        assert RunPhase.RUN_PHASE_SAVING in phases[phases.index(RunPhase.RUN_PHASE_WORKING) :]

    @case(_TRAIN)
    async def test_metrics_rise_to_the_last_step(self, bench: Bench) -> None:
        events = await bench.events((await bench.shared(whole_run)).order.run)
        told = [event.metrics for event in events if event.HasField("metrics")]
        steps = [metrics.step for metrics in told if metrics.HasField("loss")]
        assert sorted(set(steps)) == list(range(1, STEPS + 1)), "every step tells its loss"
        assert {metrics.total_steps for metrics in told} == {STEPS}
        assert all(math.isfinite(metrics.loss) for metrics in told)

    @case(_TRAIN)
    async def test_validating_starts_nothing(self, bench: Bench) -> None:
        order = bench.orders.run()
        before = set(bench.folder.iterdir())
        for _ in range(TIMES):
            await bench.call("ValidateRun", pb.ValidateRunRequest(resolved_spec=order.resolved_spec))
        assert set(bench.folder.iterdir()) == before
        refused = await bench.refusal("GetRun", pb.GetRunRequest(run=order.run))
        assert refused.code == "NOT_FOUND"

    @case(_TRAIN)
    async def test_two_runs_do_not_mix(self, bench: Bench) -> None:
        first, second = bench.orders.run(), bench.orders.run(steps=STEPS // 2)
        second.attempt = 3
        await bench.start(first)
        await bench.start(second)
        for order, steps in ((first, STEPS), (second, STEPS // 2)):
            events = await bench.events(order.run)
            assert {event.attempt for event in events} == {order.attempt}
            assert (await bench.get(order.run)).output.step == steps

    @case(_TRAIN, is_error=True)
    async def test_a_run_that_cannot_work_fails_with_a_reason(self, bench: Bench) -> None:
        order = bench.orders.run()
        order.resume_from, order.resume_step = str(bench.folder / "no-such-checkpoint"), 4
        run = await bench.finish(order)
        assert run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED, "it began anew without a word"
        assert run.error.message, "it does not say why"
        assert not run.HasField("output")

    @case(_TRAIN, is_error=True)
    async def test_a_failed_run_harms_no_other(self, bench: Bench) -> None:
        broken = bench.orders.run()
        broken.resume_from, broken.resume_step = str(bench.folder / "nothing-here"), 4
        await bench.finish(broken)
        run = await bench.finish(bench.orders.run())
        assert run.outcome == _SUCCEEDED, in_words(run)


class TrainerIdempotency(Suite):
    """Every mutating call may be repeated: its answer may have been lost on the way."""

    @case(_TRAIN)
    async def test_starting_again_is_the_same_run(self, bench: Bench) -> None:
        order = bench.orders.run()
        runs = [await bench.start(order) for _ in range(TIMES)]
        assert {run.name for run in runs} == {order.run}
        told = [
            event.metrics.step for event in await bench.events(order.run) if event.metrics.HasField("loss")
        ]
        assert len(told) == len(set(told)), "steps were done more than once"

    @case(_TRAIN)
    async def test_starting_at_the_same_time_is_one_run(self, bench: Bench) -> None:
        order = bench.orders.run()
        await asyncio.gather(*(bench.start(order) for _ in range(TIMES)))
        events = await bench.events(order.run)
        first = [event for event in events if event.metrics.step == 1 and event.metrics.HasField("loss")]
        assert len(first) == 1

    @case(_TRAIN)
    async def test_starting_an_ended_run_returns_its_end(self, bench: Bench) -> None:
        ended = await bench.shared(whole_run)
        for _ in range(TIMES):
            again = await bench.start(ended.order)
            assert (again.state, again.outcome) == (RunState.RUN_STATE_ENDED, ended.run.outcome)
        assert (await bench.get(ended.order.run)).last_source_sequence == ended.run.last_source_sequence

    @case(_TRAIN, is_error=True)
    async def test_stopping_an_ended_run_changes_nothing(self, bench: Bench) -> None:
        ended = await bench.shared(whole_run)
        for mode in (StopMode.STOP_MODE_CANCEL, StopMode.STOP_MODE_SAVE) * 2:
            assert (await bench.stop(ended.order.run, mode)).outcome == ended.run.outcome

    @case(_TRAIN, is_error=True)
    async def test_cancelling_again_gives_the_same_answer(self, bench: Bench) -> None:
        one = await bench.shared(cancelled_run)
        outcomes = [(await bench.stop(one.order.run)).outcome for _ in range(TIMES)]
        assert [one.run.outcome, *outcomes] == [_CANCELLED] * (TIMES + 1)

    @case(_TRAIN, is_error=True)
    async def test_a_refused_start_is_refused_again(self, bench: Bench) -> None:
        order = bench.orders.run()
        order.ClearField("work_dir")
        answers = [await bench.refusal("StartRun", pb.StartRunRequest(order=order)) for _ in range(TIMES)]
        assert {str(answer) for answer in answers} == {str(answers[0])}


class TrainerCancellation(Suite):
    """A cancel ends the run and keeps nothing new."""

    @case(_TRAIN, is_error=True)
    async def test_a_working_run_can_be_cancelled(self, bench: Bench) -> None:
        run = (await bench.shared(cancelled_run)).run
        assert (run.state, run.outcome) == (RunState.RUN_STATE_ENDED, _CANCELLED)

    @case(_TRAIN, is_error=True)
    async def test_a_run_that_has_just_started_can_be_cancelled(self, bench: Bench) -> None:
        order = bench.orders.endless_run()
        await bench.start(order)
        async with asyncio.timeout(bench.profile.limit_seconds / 4):
            run = await bench.stop(order.run)
        assert run.outcome == _CANCELLED

    @case(_TRAIN, is_error=True)
    async def test_a_cancelled_run_leaves_no_output(self, bench: Bench) -> None:
        one = await bench.shared(cancelled_run)
        assert not one.run.HasField("output")
        assert not (one.work / "output").exists()

    @case(_TRAIN, is_error=True)
    async def test_the_stream_of_a_cancelled_run_ends(self, bench: Bench) -> None:
        one = await bench.shared(cancelled_run)
        assert one.events[-1].source_sequence == one.run.last_source_sequence

    @case(_TRAIN, is_error=True)
    async def test_a_reader_that_leaves_harms_nothing(self, bench: Bench) -> None:
        order = bench.orders.run()
        await bench.start(order)
        for _ in range(TIMES):
            async with aclosing(bench.follow(order.run)) as events:
                await anext(events)
        await bench.events(order.run)
        assert (await bench.get(order.run)).outcome == _SUCCEEDED


class Evaluation(Suite):
    """Scores of a model on rows with known answers."""

    @case(Capability.CAPABILITY_EVALUATE)
    async def test_an_evaluation_ends_with_scores(self, bench: Bench) -> None:
        run = await bench.finish(bench.orders.run(spec=bench.orders.evaluate()))
        assert run.outcome == _SUCCEEDED, in_words(run)
        assert run.output.scores, "it has no score"

    @case(Capability.CAPABILITY_EVALUATE, is_error=True)
    async def test_an_evaluation_without_rows_fails_with_a_reason(self, bench: Bench) -> None:
        spec = bench.orders.evaluate()
        spec.data[0].path = spec.spec.evaluate.data = str(bench.folder / "no-such-rows.jsonl")
        run = await bench.finish(bench.orders.run(spec=spec))
        assert run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED
        assert run.error.message
