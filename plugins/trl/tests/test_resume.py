"""A run that was stopped and goes on in a new process ends in the same bytes as one that was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import process_lab
import pytest
import torch
import trl_lab as lab

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_trl.rank import TrlRank

STEPS = 10
# 16 rows in steps of 4: an epoch is 4 steps. 3 is inside one, 4 at the end of one; at 10, inside one
# again, nothing is left to do.
STOPS = (3, 4, 10)


def _spec() -> lab.JobSpec:
    spec = lab.train_spec(steps=STEPS, dropout=0.1)  # dropout: the random state has to be resumed too
    spec.train.checkpoint.every_steps = STEPS
    return spec


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> lab.MemoryContext:
    """The same run without a stop; its last step is a checkpoint."""
    return lab.run_colours(base, tmp_path_factory.mktemp("whole"), _spec())


def _stopped_at(step: int, whole: lab.MemoryContext, folder: Path) -> lab.MemoryContext:
    """Run the same order in another folder up to a stop with SAVE."""
    order = lab.RunOrder()
    order.CopyFrom(whole.order)
    order.work_dir = str(folder)
    context = lab.MemoryContext(
        order,
        stop_when=lambda context: (
            StopMode.STOP_MODE_SAVE if context.step >= step - 1 else StopMode.STOP_MODE_UNSPECIFIED
        ),
    )
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    assert context.checkpoints == [step]
    assert context.step == step, "the numbers of the saved step are told"
    return context


@pytest.mark.parametrize("step", STOPS)
def test_a_resumed_run_ends_in_the_same_bytes(
    uninterrupted: lab.MemoryContext, tmp_path: Path, step: int
) -> None:
    stopped = _stopped_at(step, uninterrupted, tmp_path / "stopped")
    process_lab.run_in_new_process(process_lab.resumed(stopped.order, tmp_path / "resumed", step))
    whole, resumed = uninterrupted.output, tmp_path / "resumed" / "output"
    for name in ("adapter_model.safetensors", "adapter_config.json", "contract.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    last = Path("checkpoints") / f"step-{STEPS:08d}"
    # Resumed at the last step there is no step left, and no checkpoint but the one it came from.
    work = tmp_path / ("stopped" if step == STEPS else "resumed")
    for name in ("optimizer.pt", "scheduler.pt"):
        one = torch.load(uninterrupted.output.parent / last / name, weights_only=True)
        other = torch.load(work / last / name, weights_only=True)
        assert _equal(one, other), name


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)  # type: ignore[arg-type]
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        assert isinstance(other, list)
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def _in_full() -> lab.JobSpec:
    spec = lab.adapted_spec("full", steps=STEPS)
    spec.train.checkpoint.every_steps = 4
    return spec


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".jinja"}


def test_full_fine_tuning_goes_on_from_the_very_weights(base: Path, tmp_path: Path) -> None:
    """In this process; the next test does it for every adaptation, with a kill."""
    whole = lab.run_colours(base, tmp_path, _in_full())
    order = lab.RunOrder()
    order.CopyFrom(whole.order)
    order.work_dir = str(tmp_path / "resumed")
    order.resume_from = str(whole.checkpoint_folder(8))
    resumed = lab.MemoryContext(order)
    TrlRank().run(resumed)
    assert [item.step for item in resumed.told if item.HasField("loss")] == list(range(9, STEPS + 1))
    assert _weights(resumed.output) == _weights(whole.output)


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", lab.ADAPTATIONS)
def test_a_killed_run_goes_on_to_the_same_bytes(base: Path, tmp_path: Path, adaptation: str) -> None:
    spec = lab.adapted_spec(adaptation, steps=STEPS, dropout=0.1)
    spec.train.checkpoint.every_steps = 4
    whole = lab.run_colours(base, tmp_path, spec)
    killed = lab.RunOrder()
    killed.CopyFrom(whole.order)
    killed.work_dir = str(tmp_path / "killed")
    step = process_lab.killed_after(killed, 4)
    process_lab.run_in_new_process(process_lab.resumed(killed, tmp_path / "resumed", step))
    assert _weights(tmp_path / "resumed" / "output") == _weights(whole.output)


def test_the_stopped_state_differs_from_the_final_one(
    uninterrupted: lab.MemoryContext, tmp_path: Path
) -> None:
    """So that equal bytes above mean something."""
    stopped = _stopped_at(3, uninterrupted, tmp_path / "stopped")
    saved = stopped.checkpoint_folder(3) / "adapter_model.safetensors"
    assert saved.read_bytes() != (uninterrupted.output / saved.name).read_bytes()


def test_a_checkpoint_holds_nothing_that_must_be_unpickled_as_code(
    uninterrupted: lab.MemoryContext,
) -> None:
    folder = uninterrupted.checkpoint_folder(STEPS)
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
    }  # fmt: skip
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(folder / name, weights_only=True)
    assert len(json.loads((folder / "trainer_state.json").read_text())["log_history"]) == 1


@pytest.mark.parametrize("step", [6, STEPS])
def test_a_resumed_run_goes_on_counting_steps_and_tokens(
    uninterrupted: lab.MemoryContext, tmp_path: Path, rank: TrlRank, step: int
) -> None:
    stopped = _stopped_at(step, uninterrupted, tmp_path / "stopped")
    order = lab.RunOrder()
    order.CopyFrom(stopped.order)
    order.work_dir = str(tmp_path / "resumed")
    order.resume_from = str(stopped.checkpoint_folder(step))
    context = lab.MemoryContext(order)
    rank.run(context)
    told = {metrics.step: metrics for metrics in context.told if metrics.HasField("loss")}
    whole = {metrics.step: metrics for metrics in uninterrupted.told if metrics.HasField("loss")}
    assert list(told) == list(range(step + 1, STEPS + 1)), "a step was left out, or one too many was trained"
    for number, metrics in told.items():
        assert metrics.loss == whole[number].loss
        assert metrics.learning_rate == whole[number].learning_rate
        assert metrics.tokens == whole[number].tokens


def test_cancel_ends_the_run_at_once_and_keeps_nothing(
    uninterrupted: lab.MemoryContext, tmp_path: Path, rank: TrlRank
) -> None:
    order = lab.RunOrder()
    order.CopyFrom(uninterrupted.order)
    order.work_dir = str(tmp_path)
    context = lab.MemoryContext(
        order,
        stop_when=lambda context: (
            StopMode.STOP_MODE_CANCEL if context.step >= 2 else StopMode.STOP_MODE_UNSPECIFIED
        ),
    )
    with pytest.raises(RunStopped):
        rank.run(context)
    assert context.step == 2
    assert context.checkpoints == []
    assert not context.output.exists()


def test_a_checkpoint_on_request_leaves_no_trace_in_the_run(base: Path, tmp_path: Path) -> None:
    def run(folder: Path, **wishes: Any) -> lab.MemoryContext:
        spec = lab.train_spec(steps=6, dropout=0.1)
        folder.mkdir()
        resolved = lab.resolved(base, data=[("train", lab.colours(folder / "train.jsonl"))], spec=spec)
        context = lab.MemoryContext(lab.order(resolved, folder / "work"), **wishes)
        TrlRank().run(context)
        return context

    plain = run(tmp_path / "plain")
    asked = run(tmp_path / "asked", save_when=lambda context: context.step >= 2 and not context.checkpoints)
    assert set(asked.checkpoints) - set(plain.checkpoints) == {3}  # told of step 2 when step 3 is done
    assert [metrics.loss for metrics in asked.told] == [metrics.loss for metrics in plain.told]
    weights = "adapter_model.safetensors"
    assert (asked.output / weights).read_bytes() == (plain.output / weights).read_bytes()
