"""The best state by validation is the result; a run stops once there is none better, a resumed one alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_trl.rank import TrlRank

STEPS = 40
WRONG = tuple((word, lab.PAIRS[at - 1][1]) for at, (word, _) in enumerate(lab.PAIRS))
"""The same questions with each other's answers: what training teaches, validation contradicts."""


def _order(base: Path, folder: Path, adaptation: str = "lora", **changes: Any) -> lab.RunOrder:
    """Return a run whose validation gets better while it learns the form, then worse."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = lab.adapted_spec(adaptation, steps=STEPS, dropout=0.0)
    train = spec.train
    train.data.validation = "validation.jsonl"
    train.validate_every_steps = 2
    train.checkpoint.every_steps = 3
    train.checkpoint.best_by = changes.get("best_by", "validation_loss")
    train.early_stop.patience = changes.get("patience", 3)
    rows = lab.write_rows(folder / "train.jsonl", [lab.chat(*pair) for pair in lab.PAIRS] * 4)
    validation = lab.write_rows(folder / "validation.jsonl", [lab.chat(*pair) for pair in WRONG])
    data = [("train", rows), ("validation", validation)]
    return lab.order(lab.resolved(base, data=data, spec=spec), folder / "work")


@pytest.fixture(
    scope="module",
    params=["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "qlora"))],
)
def stopped(
    request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> lab.MemoryContext:
    """A run that stopped early."""
    context = lab.MemoryContext(_order(base, tmp_path_factory.mktemp("early"), request.param))
    output = TrlRank().run(context)
    assert output.step == _best(context)[0], "the output is of the best step"
    return context


def _best(context: lab.MemoryContext) -> tuple[int, float]:
    found = {item.step: item.validation_loss for item in context.told if item.HasField("validation_loss")}
    step = min(found, key=lambda step: found[step])
    return step, found[step]


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_it_stops_after_so_many_validations_without_improvement(stopped: lab.MemoryContext) -> None:
    (event,) = stopped.events_of("stopped_early")
    best, value = _best(stopped)
    assert (event.step, event.patience) == (best + 3 * 2, 3)
    assert stopped.step == event.step < STEPS
    assert (event.best.step, event.best.metric) == (best, "validation_loss")
    assert event.best.value == pytest.approx(value)


def test_every_improvement_is_told(stopped: lab.MemoryContext) -> None:
    told = stopped.events_of("best_checkpoint")
    values = [item.value for item in told]
    assert values == sorted(values, reverse=True)
    assert told[-1].step == _best(stopped)[0]


def test_the_result_says_which_step_it_is(stopped: lab.MemoryContext) -> None:
    best, _ = _best(stopped)
    assert any(f"the state of step {best}, the best by validation loss" in text for text in stopped.notices)


def test_the_result_is_what_a_run_to_that_step_would_have_been(stopped: lab.MemoryContext) -> None:
    """Held against the checkpoints: none has the best step's number, yet each kept those weights."""
    if stopped.order.resolved_spec.spec.train.HasField("adapter"):
        kept = Path(stopped.order.work_dir) / "kept" / "best"
        assert _weights(stopped.output) == _weights(kept)
    newest = stopped.checkpoint_folder(stopped.checkpoints[-1])
    assert json.loads((newest / "decisions.json").read_text())["best"]["step"] == _best(stopped)[0]
    assert _weights(newest / "kept" / "best") == _weights(Path(stopped.order.work_dir) / "kept" / "best")
    assert _weights(newest / "kept" / "best") != _weights(newest)


def test_a_run_resumed_after_its_best_step_ends_in_the_same_bytes(
    stopped: lab.MemoryContext, tmp_path: Path
) -> None:
    """Another folder, as on another host: all it has is the checkpoint."""
    best, _ = _best(stopped)
    step = next(step for step in stopped.checkpoints if step > best)
    order = lab.RunOrder()
    order.CopyFrom(stopped.order)
    order.work_dir = str(tmp_path / "resumed")
    order.resume_from = str(stopped.checkpoint_folder(step))
    resumed = lab.MemoryContext(order)
    assert TrlRank().run(resumed).step == best
    assert resumed.step == stopped.step, "it stops at the same step"
    assert _weights(resumed.output) == _weights(stopped.output)


def test_a_run_saved_at_the_step_where_it_stopped_trains_no_further(base: Path, tmp_path: Path) -> None:
    order = _order(base, tmp_path, patience=1)
    order.resolved_spec.spec.train.checkpoint.every_steps = 1
    whole = lab.MemoryContext(order)
    TrlRank().run(whole)
    (event,) = whole.events_of("stopped_early")
    assert event.step in whole.checkpoints
    again = lab.RunOrder()
    again.CopyFrom(order)
    again.work_dir = str(tmp_path / "again")
    again.resume_from = str(whole.checkpoint_folder(event.step))
    resumed = lab.MemoryContext(again)
    TrlRank().run(resumed)
    assert not any(item.HasField("loss") for item in resumed.told)
    assert _weights(resumed.output) == _weights(whole.output)


@pytest.mark.slow
def test_without_patience_it_goes_on_to_the_end_and_still_gives_the_best(base: Path, tmp_path: Path) -> None:
    context = lab.MemoryContext(_order(base, tmp_path, patience=0))
    output = TrlRank().run(context)
    assert context.step == STEPS
    assert not context.events_of("stopped_early")
    assert output.step == _best(context)[0] < STEPS


def test_where_the_last_step_is_wanted_nothing_is_kept_beside_it(base: Path, tmp_path: Path) -> None:
    context = lab.MemoryContext(_order(base, tmp_path, best_by="none"))
    assert TrlRank().run(context).step == STEPS
    assert not context.events
    assert not (Path(context.order.work_dir) / "kept").exists()


def test_checkpoints_come_by_time_too(base: Path, tmp_path: Path) -> None:
    spec = lab.train_spec(steps=4)
    spec.train.checkpoint.every_minutes = 1e-9  # has passed after every step
    context = lab.run_colours(base, tmp_path, spec)
    assert context.checkpoints == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_pause_between_best_and_end_keeps_the_best(base: Path, tmp_path: Path) -> None:
    order = _order(base, tmp_path)
    order.resolved_spec.spec.train.checkpoint.every_steps = 1000
    context = lab.MemoryContext(
        order,
        stop_when=lambda context: (
            StopMode.STOP_MODE_SAVE if len(context.events) >= 2 else StopMode.STOP_MODE_UNSPECIFIED
        ),
    )
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    kept = context.checkpoint_folder(context.checkpoints[-1])
    assert (
        json.loads((kept / "decisions.json").read_text())["best"]["step"]
        == context.events[-1].best_checkpoint.step
    )
    assert _weights(kept / "kept" / "best")
