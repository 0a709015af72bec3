"""The life of a run on MLX: the best state is the result, a lost run goes on, prompts are answered."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import train_lab as lab
from trl_lab import PAIRS, chat, order, resolved, write_rows

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.run_health import kept_decisions
from tunefleet_mlx.rank import MlxRank
from tunefleet_mlx.trainer import Trainer

STEPS = 40
WRONG = [(word, PAIRS[at - 1][1]) for at, (word, _) in enumerate(PAIRS)]
"""The same questions with each other's answers: what training teaches, validation contradicts."""


def early_order(bases: Path, folder: Path, *, patience: int = 3) -> lab.RunOrder:
    """Return a run whose validation gets better while it learns the form, then worse."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = lab.job("lora", steps=STEPS, every=3)
    spec.train.data.validation = "validation.jsonl"
    spec.train.validate_every_steps = 2
    spec.train.checkpoint.best_by = "validation_loss"
    spec.train.early_stop.patience = patience
    spec.train.samples.prompts.append("red")
    spec.train.samples.every_steps = 4
    data = [
        ("train", write_rows(folder / "train.jsonl", [chat(*pair) for pair in PAIRS] * 4)),
        ("validation", write_rows(folder / "validation.jsonl", [chat(*pair) for pair in WRONG])),
    ]
    base = bases / "qwen3"
    return order(resolved(base, model_type="qwen3", data=data, spec=spec), folder / "work")


def risky_order(
    bases: Path, folder: Path, *, learning_rate: float = 1e-2, rollbacks: int = 2
) -> lab.RunOrder:
    """Return a run in which something may be lost."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = lab.job("lora", steps=16, every=4)
    spec.train.optim.learning_rate = learning_rate
    spec.train.optim.max_grad_norm = 1e30
    spec.train.divergence.max_rollbacks = rollbacks
    data = [("train", write_rows(folder / "train.jsonl", [chat(*pair) for pair in PAIRS] * 4))]
    return order(resolved(bases / "qwen3", model_type="qwen3", data=data, spec=spec), folder / "work")


def spoil(patch: pytest.MonkeyPatch, *, at: int) -> None:
    """Make the loss of a step no number, as an overflow would, once."""
    take, spoilt = Trainer.take_step, []

    def step(trainer):
        result = take(trainer)
        if trainer.step == at and not spoilt:
            spoilt.append(at)
            return type(result)(
                loss=math.nan,
                grad_norm=result.grad_norm,
                learning_rate=result.learning_rate,
                token_accuracy=0.0,
            )
        return result

    patch.setattr(Trainer, "take_step", step)


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def again(context, folder: Path, step: int) -> lab.RunOrder:
    """Return the order of a run that has nothing but a checkpoint of another."""
    other = lab.RunOrder()
    other.CopyFrom(context.order)
    other.work_dir = str(folder / "again")
    other.resume_from, other.resume_step = str(context.checkpoint_folder(step)), step
    return other


@pytest.fixture(scope="module")
def stopped(bases: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run that stopped early."""
    return lab.run(early_order(bases, tmp_path_factory.mktemp("early")))


def best_of(context) -> tuple[int, float]:
    found = {item.step: item.validation_loss for item in context.told if item.HasField("validation_loss")}
    step = min(found, key=lambda step: found[step])
    return step, found[step]


def test_it_stops_after_so_many_validations_without_improvement_and_gives_the_best(stopped) -> None:
    (event,) = stopped.events_of("stopped_early")
    best, value = best_of(stopped)
    assert (event.step, event.patience) == (best + 3 * 2, 3)
    assert (event.best.step, event.best.value) == (best, pytest.approx(value))
    assert stopped.step == event.step < STEPS
    told = stopped.events_of("best_checkpoint")
    assert [item.value for item in told] == sorted((item.value for item in told), reverse=True)
    assert any(f"the state of step {best}, the best by validation loss" in text for text in stopped.notices)
    newest = stopped.checkpoint_folder(stopped.checkpoints[-1])
    kept = weights(newest / "kept" / "best")
    assert (
        kept["weights.safetensors"]
        == weights(Path(stopped.order.work_dir) / "kept" / "best")["weights.safetensors"]
    )
    assert kept["weights.safetensors"] != weights(newest)["weights.safetensors"]


def test_a_run_resumed_after_its_best_step_ends_in_the_same_bytes(stopped, tmp_path: Path) -> None:
    best, _ = best_of(stopped)
    step = next(step for step in stopped.checkpoints if step > best)
    resumed = lab.run(again(stopped, tmp_path, step))
    assert resumed.step == stopped.step, "it stops at the same step"
    assert weights(resumed.output) == weights(stopped.output)


def test_prompts_are_answered_before_the_first_step_and_every_so_many(stopped) -> None:
    assert [(step, prompt) for step, prompt, _ in stopped.samples] == [
        (step, "red") for step in range(0, stopped.step + 1, 4)
    ]
    assert stopped.samples[0][2] != stopped.samples[-1][2], "it learned to answer"


def test_without_samples_and_early_stop_the_weights_are_the_same(
    bases: Path, stopped, tmp_path: Path
) -> None:
    """Neither draws a random number nor touches a weight."""
    plain = early_order(bases, tmp_path)
    train = plain.resolved_spec.spec.train
    train.ClearField("samples")
    train.checkpoint.best_by = "none"
    assert lab.losses(lab.run(plain))[: stopped.step] == lab.losses(stopped)


def test_a_rate_that_no_training_survives_is_halved_and_then_given_up(bases: Path, tmp_path: Path) -> None:
    context = lab.MemoryContext(risky_order(bases, tmp_path, learning_rate=1e30))
    with pytest.raises(TunefleetError, match="rolled back 2 times") as caught:
        MlxRank().run(context)
    assert caught.value.reason is Reason.TRAINING_DIVERGED
    told = context.events_of("rollback")
    assert [(item.rollbacks, item.most) for item in told] == [(1, 2), (2, 2)]
    assert not context.output.exists()


@pytest.fixture(scope="module")
def recovered(bases: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run whose loss was no number at step 10, once."""
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, at=10)
        return lab.run(risky_order(bases, tmp_path_factory.mktemp("recovered")))


def test_it_goes_on_from_the_last_good_checkpoint_with_half_the_rate(recovered) -> None:
    (told,) = recovered.events_of("rollback")
    assert (told.step, told.to_step, told.rollbacks) == (10, 8, 1)
    steps = [item.step for item in recovered.told if item.HasField("loss")]
    assert steps == [*range(1, 11), *range(9, 17)]
    rates = [item.learning_rate for item in recovered.told if item.HasField("loss")]
    assert rates[10] == pytest.approx(rates[8] / 2), "step 9, before and after"
    assert kept_decisions(recovered.checkpoint_folder(12))["recovery"] == {"rollbacks": 1}


def test_a_run_killed_after_a_rollback_ends_in_the_same_bytes(recovered, tmp_path: Path) -> None:
    resumed = lab.run(again(recovered, tmp_path, 12))
    assert weights(resumed.output) == weights(recovered.output)


def test_a_run_without_rollbacks_fails_at_once(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, at=2)
    with pytest.raises(TunefleetError, match="the training diverged") as caught:
        lab.run(risky_order(bases, tmp_path, rollbacks=0))
    assert caught.value.reason is Reason.TRAINING_DIVERGED


def test_a_planted_row_is_named_by_file_and_line(bases: Path, tmp_path: Path) -> None:
    odd = chat("red", "".join(chr(33 + (17 * at) % 90) for at in range(60)))
    rows = [chat(*pair) for pair in PAIRS] * 40
    rows.insert(122, odd)
    path = write_rows(tmp_path / "train.jsonl", rows)
    spec = lab.job("lora", steps=41)
    spec.train.optim.learning_rate = 2e-2
    spec.train.divergence.max_rollbacks = 2
    spec.train.seed = 3  # the planted row comes late in this order, when the rest is learned
    data = [("train", path)]
    context = lab.run(
        order(resolved(bases / "qwen3", model_type="qwen3", data=data, spec=spec), tmp_path / "work")
    )
    named = {(place.path, place.line) for spike in context.events_of("loss_spike") for place in spike.rows}
    assert (str(path), 123) in named


def test_checkpoints_come_by_time_too(bases: Path, tmp_path: Path) -> None:
    one = risky_order(bases, tmp_path)
    one.resolved_spec.spec.train.optim.max_steps = 3
    one.resolved_spec.spec.train.checkpoint.every_minutes = 1e-9  # has passed after every step
    assert lab.run(one).checkpoints == [1, 2, 3]
