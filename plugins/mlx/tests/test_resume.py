"""A run that was killed or paused and goes on ends in the same bytes as one that was not."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import train_lab as lab

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.errors import Reason, TunefleetError

STEPS = 10


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _copy(order: lab.RunOrder, work: Path, *, resume_from: Path | None = None) -> lab.RunOrder:
    other = lab.RunOrder()
    other.CopyFrom(order)
    other.work_dir = str(work)
    other.resume_from = str(resume_from or "")
    return other


@pytest.mark.parametrize("adaptation", ["lora", "mlx4", "full"])
def test_a_killed_run_goes_on_to_the_same_bytes(bases: Path, tmp_path: Path, adaptation: str) -> None:
    """Each run in a process of its own, as always: MLX draws from one generator of the whole process."""
    spec = lab.job(adaptation, steps=STEPS, dropout=0.1, every=3)
    order = lab.make_order(bases / "qwen3", tmp_path, spec)
    whole, losses = lab.MemoryContext(order), lab.run_apart(order, tmp_path / "whole")
    killed = _copy(order, tmp_path / "killed")
    process = lab.start_apart(killed, tmp_path / "order")
    context = lab.MemoryContext(killed)
    while not context.checkpoint_folder(3).exists():
        assert process.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    again = _copy(order, tmp_path / "resumed", resume_from=context.checkpoint_folder(3))
    resumed, told = lab.MemoryContext(again), lab.run_apart(again, tmp_path / "again")
    assert list(told) == list(range(4, STEPS + 1))
    assert told == {step: loss for step, loss in losses.items() if step > 3}
    assert _weights(resumed.output) == _weights(whole.output)
    saved = context.checkpoint_folder(3) / "weights.safetensors"
    last = resumed.checkpoint_folder(STEPS) / "weights.safetensors"
    assert saved.read_bytes() != last.read_bytes(), "so that equal bytes above mean something"


def test_a_paused_run_has_saved_and_a_cancelled_one_keeps_nothing(bases: Path, tmp_path: Path) -> None:
    order = lab.make_order(bases / "qwen3", tmp_path, lab.job("lora", steps=100_000))
    for mode, saved in ((StopMode.STOP_MODE_SAVE, [3]), (StopMode.STOP_MODE_CANCEL, [])):
        context = lab.MemoryContext(
            _copy(order, tmp_path / str(mode)),
            stop_when=lambda context, mode=mode: mode if context.step >= 3 else 0,
        )
        with pytest.raises(RunStopped):
            lab.MlxRank().run(context)
        assert context.checkpoints == saved
        assert not context.output.exists()


def test_a_damaged_checkpoint_is_refused(bases: Path, tmp_path: Path) -> None:
    whole = lab.run(lab.make_order(bases / "qwen3", tmp_path, lab.job("lora", steps=2)))
    folder = whole.checkpoint_folder(2)
    with (folder / "optimizer.safetensors").open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(TunefleetError) as caught:
        lab.run(_copy(whole.order, tmp_path / "again", resume_from=folder))
    assert caught.value.reason is Reason.BACKEND_FAILED


def test_a_trial_before_the_first_step_leaves_no_trace(bases: Path, tmp_path: Path) -> None:
    """Gradients are clipped here by a norm over all of them, which must be summed in one order."""
    whole = lab.run(lab.make_order(bases / "qwen3", tmp_path, lab.job("lora", steps=6, dropout=0.1)))
    untried = _copy(whole.order, tmp_path / "untried")
    untried.resolved_spec.spec.train.preflight = False
    assert whole.preflights
    assert _weights(lab.run(untried).output) == _weights(whole.output)
