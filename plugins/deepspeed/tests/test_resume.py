"""A run that goes on from a checkpoint ends in the bytes of one that was never stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import process_lab
import pytest
import torch
import zero_lab as lab

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent, RunPhase
from tunefleet_core.backend import RunStopped
from tunefleet_core.errors import Reason, TunefleetError, error_from_status


@pytest.mark.parametrize(
    # 16 rows in steps of 4: an epoch is 4 steps. Stops are inside of one and at its end.
    ("adaptation", "options", "step", "dtype"),
    [
        ("lora", {}, 3, ""),
        ("full", {"offload_optimizer": "cpu", "offload_weights": "cpu"}, 4, ""),
        ("full", {"zero_stage": 2}, 3, "bfloat16"),  # its checkpoint holds float32 copies too
        ("lora", {"zero_stage": 1}, 4, ""),
    ],
)
def test_a_stopped_run_goes_on_in_the_same_bytes(
    base: Path, tmp_path: Path, adaptation: str, options: dict[str, object], step: int, dtype: str
) -> None:
    whole = lab.make_order(base, tmp_path / "whole", adaptation=adaptation, dropout=0.1, **options)
    whole.resolved_spec.spec.train.checkpoint.every_steps = lab.STEPS
    whole.resolved_spec.spec.train.dtype = dtype
    lab.here(whole)
    stopped = lab.moved(whole, tmp_path / "stopped")
    context = lab.MemoryContext(
        stopped,
        stop_when=lambda now: (
            StopMode.STOP_MODE_SAVE if now.step >= step - 1 else StopMode.STOP_MODE_UNSPECIFIED
        ),
    )
    with pytest.raises(RunStopped):
        lab.run_here(context)
    assert context.checkpoints[-1] == step
    again = lab.resumed(stopped, tmp_path / "again", step)
    lab.here(again)
    assert lab.output_bytes(again) == lab.output_bytes(whole)


def test_a_trial_leaves_no_trace(base: Path, tmp_path: Path) -> None:
    tried = lab.make_order(base, tmp_path / "tried", adaptation="full", dropout=0.1)
    plain = lab.moved(tried, tmp_path / "plain")
    plain.resolved_spec.spec.train.preflight = False
    contexts = [lab.here(order) for order in (tried, plain)]
    assert [len(context.preflights) for context in contexts] == [1, 0]
    assert lab.losses(contexts[0]) == lab.losses(contexts[1])
    assert lab.output_bytes(tried) == lab.output_bytes(plain)


def test_nothing_in_a_checkpoint_is_run_as_code(base: Path, tmp_path: Path) -> None:
    order = lab.make_order(base, tmp_path, steps=lab.EVERY)
    lab.here(order)
    again = lab.resumed(order, tmp_path / "again", lab.EVERY)
    folder = Path(again.resume_from)
    assert not list(folder.rglob("*.py"))
    (state,) = folder.rglob("*optim_states.pt")
    torch.save({"optimizer_state_dict": _Harm(tmp_path / "harmed")}, state)
    with pytest.raises(TunefleetError, match="checkpoint") as caught:
        lab.here(again)
    assert caught.value.reason is Reason.BACKEND_FAILED
    assert not (tmp_path / "harmed").exists()


class _Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> object:
        return Path.touch, (self._path,)


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> process_lab.Hosted:
    """An undisturbed run of two processes, with dropout, so that random state matters."""
    return lab.succeeded(lab.make_order(base, tmp_path_factory.mktemp("whole"), dropout=0.1))


@pytest.mark.slow  # up to three runs of two processes
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_attempt_and_the_next_ends_in_the_same_bytes(
    tmp_path: Path, whole: process_lab.Hosted, victim: int
) -> None:
    order = lab.moved(whole.order, tmp_path / "work")
    has_saved = False

    async def kill(hosted: process_lab.Hosted, event: JobEvent) -> None:
        nonlocal has_saved
        has_saved = has_saved or event.HasField("checkpoint_saved")
        if has_saved and event.metrics.HasField("loss"):
            hosted.processes[victim].process.send_signal(signal.SIGKILL)

    killed = lab.run(order, watch=kill)
    assert killed.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    error = error_from_status(killed.ended.error)
    assert error.reason is Reason.WORKER_LOST, "it is retried"
    assert f"Rank process {victim} of 2 ended by signal SIGKILL" in error.message
    again = lab.resumed(order, tmp_path / "again", killed.ended.checkpoints[-1].step)
    lab.succeeded(again)
    assert lab.output_bytes(again) == lab.output_bytes(whole.order)


@pytest.mark.slow  # a run of two processes
def test_a_pause_saves_the_parts_of_all(tmp_path: Path, whole: process_lab.Hosted) -> None:
    order = lab.moved(whole.order, tmp_path / "work")

    async def pause(hosted: process_lab.Hosted, event: JobEvent) -> None:
        if event.metrics.step == 1:
            await hosted.run.stop(StopMode.STOP_MODE_SAVE)

    paused = lab.run(order, watch=pause)
    assert paused.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_PAUSED, paused.ended.error
    step = paused.ended.checkpoints[-1].step
    assert step < lab.STEPS
    parts = {path.name for path in (tmp_path / "work" / "checkpoints").glob(f"step-{step:08d}/*/*")}
    assert {f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)} < parts


@pytest.mark.slow  # a run of two processes
def test_a_cancel_ends_both_processes(base: Path, tmp_path: Path) -> None:
    order = lab.make_order(base, tmp_path, steps=100_000)

    async def cancel(hosted: process_lab.Hosted, event: JobEvent) -> None:
        if event.phase_changed.phase == RunPhase.RUN_PHASE_WORKING and not hosted.run.is_ended:
            await hosted.run.stop(StopMode.STOP_MODE_CANCEL)

    cancelled = lab.run(order, watch=cancel)
    assert cancelled.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED, cancelled.ended.error
    assert not (Path(order.work_dir) / "output").exists()
