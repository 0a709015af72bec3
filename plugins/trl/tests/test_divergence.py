"""A lost run goes on from its last good checkpoint, more carefully; a batch that stands out names its rows.

Both are provoked for real: by learning rates no training survives, and by a planted row.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trl_lab as lab

from tunefleet.job.v1.event_pb2 import Rollback
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.run_health import kept_decisions
from tunefleet_trl.rank import TrlRank

STEPS = 30


def _order(
    base: Path, folder: Path, *, learning_rate: float, rollbacks: int = 2, every: int = 4
) -> lab.RunOrder:
    folder.mkdir(parents=True, exist_ok=True)
    spec = lab.train_spec(steps=STEPS, dropout=0.0, learning_rate=learning_rate, max_grad_norm=1e30)
    spec.train.optim.warmup_ratio = 0.5  # the rate rises through what a run survives to what it does not
    spec.train.checkpoint.every_steps = every
    spec.train.divergence.max_rollbacks = rollbacks
    rows = lab.write_rows(folder / "train.jsonl", [lab.chat(*pair) for pair in lab.PAIRS] * 4)
    return lab.order(lab.resolved(base, data=[("train", rows)], spec=spec), folder / "work")


class _Spoilt:
    """Makes the loss of chosen steps no number, as an overflow would, once for every try."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at: int, times: int) -> None:
        from tunefleet_trl.trainer import RunTraining

        compute = RunTraining.compute_loss
        self.rates: list[float] = []

        def spoil(trainer, model, *arguments, **further):
            loss = compute(trainer, model, *arguments, **further)
            if model.training and trainer.state.global_step + 1 == at and len(self.rates) < times:
                if not self.rates or self.rates[-1] != trainer.args.learning_rate:
                    self.rates.append(trainer.args.learning_rate)
                return loss * math.nan
            return loss

        monkeypatch.setattr(RunTraining, "compute_loss", spoil)


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_a_rate_that_no_training_survives_is_halved_and_then_given_up(base: Path, tmp_path: Path) -> None:
    context = lab.MemoryContext(_order(base, tmp_path, learning_rate=1e30))
    with pytest.raises(TunefleetError, match="rolled back 2 times") as caught:
        TrlRank().run(context)
    assert caught.value.reason is Reason.TRAINING_DIVERGED
    assert "train.optim.learning_rate" in caught.value.hint
    told: list[Rollback] = context.events_of("rollback")
    assert [(item.rollbacks, item.most) for item in told] == [(1, 2), (2, 2)]
    assert [item.learning_rate for item in told] == pytest.approx([0.5e30, 0.25e30])
    assert not context.output.exists()


def test_a_run_without_rollbacks_fails_at_once(base: Path, tmp_path: Path) -> None:
    context = lab.MemoryContext(_order(base, tmp_path, learning_rate=1e30, rollbacks=0))
    with pytest.raises(TunefleetError, match="the training diverged") as caught:
        TrlRank().run(context)
    assert caught.value.reason is Reason.TRAINING_DIVERGED
    assert not context.events_of("rollback")


@pytest.fixture(scope="module")
def recovered(base: Path, tmp_path_factory: pytest.TempPathFactory) -> lab.MemoryContext:
    """A run whose loss was no number at step 10, once."""
    with pytest.MonkeyPatch.context() as patch:
        context = lab.MemoryContext(_order(base, tmp_path_factory.mktemp("recovered"), learning_rate=1e-2))
        _Spoilt(patch, at=10, times=1)
        TrlRank().run(context)
    return context


def test_it_goes_on_from_the_last_good_checkpoint_with_half_the_rate(recovered: lab.MemoryContext) -> None:
    (told,) = recovered.events_of("rollback")
    assert (told.step, told.to_step, told.rollbacks) == (10, 8, 1)
    assert math.isnan(told.loss)
    steps = [item.step for item in recovered.told if item.HasField("loss")]
    assert steps == [*range(1, 10), *range(9, STEPS + 1)]
    rates = [item.learning_rate for item in recovered.told if item.HasField("loss")]
    assert rates[9] == pytest.approx(rates[8] / 2), "step 9, before and after"
    assert max(rates[9:]) == pytest.approx(1e-2 / 2)
    assert kept_decisions(recovered.checkpoint_folder(12))["recovery"] == {"rollbacks": 1}


def test_a_run_killed_after_a_rollback_ends_in_the_same_bytes(
    recovered: lab.MemoryContext, tmp_path: Path
) -> None:
    """It resumes after the rollback, and goes on with half the rate and clipped."""
    order = lab.RunOrder()
    order.CopyFrom(recovered.order)
    order.work_dir = str(tmp_path / "resumed")
    order.resume_from, order.resume_step = str(recovered.checkpoint_folder(12)), 12
    resumed = lab.MemoryContext(order)
    TrlRank().run(resumed)
    assert _weights(resumed.output) == _weights(recovered.output)


def test_a_run_killed_between_rollback_and_next_checkpoint_ends_in_the_same_bytes(
    recovered: lab.MemoryContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All it has is the checkpoint of before: it is lost again at the same step, and decides alike."""
    order = lab.RunOrder()
    order.CopyFrom(recovered.order)
    order.work_dir = str(tmp_path / "resumed")
    order.resume_from, order.resume_step = str(recovered.checkpoint_folder(8)), 8
    _Spoilt(monkeypatch, at=10, times=1)
    resumed = lab.MemoryContext(order)
    TrlRank().run(resumed)
    (told,) = resumed.events_of("rollback")
    assert (told.step, told.to_step, told.rollbacks) == (10, 8, 1)
    assert _weights(resumed.output) == _weights(recovered.output)


def test_a_planted_row_is_named_by_file_and_line(base: Path, tmp_path: Path) -> None:
    odd = lab.chat("red", "".join(chr(33 + (17 * at) % 90) for at in range(60)))
    rows = [lab.chat(*pair) for pair in lab.PAIRS] * 40
    rows.insert(122, odd)
    path = lab.write_rows(tmp_path / "train.jsonl", rows)
    spec = lab.train_spec(steps=41, dropout=0.0, learning_rate=2e-2, epochs=1.0)
    spec.train.divergence.max_rollbacks = 2
    spec.train.seed = 3  # the planted row comes late in this order, when the rest is learned
    context = lab.MemoryContext(
        lab.order(lab.resolved(base, data=[("train", path)], spec=spec), tmp_path / "work")
    )
    TrlRank().run(context)
    spikes = context.events_of("loss_spike")
    assert spikes, [item.loss for item in context.told]
    named = {(place.path, place.line) for spike in spikes for place in spike.rows}
    assert (str(path), 123) in named
    assert all(len(spike.rows) <= 4 for spike in spikes), "the rows of one batch"
    assert all(spike.loss > spike.usual for spike in spikes)
