"""What happens beside the steps is decided as for trl: best state, samples, general rows, roll-backs."""

from __future__ import annotations

import shutil
from pathlib import Path

import process_lab
import pytest
import trl_lab
import zero_lab as lab
from safetensors.torch import load_file

from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet_core.errors import Reason, TunefleetError, from_exception

WRONG = tuple((word, trl_lab.PAIRS[at - 1][1]) for at, (word, _) in enumerate(trl_lab.PAIRS))
"""The same questions with each other's answers: what training teaches, validation contradicts."""


def watched(order: RunOrder, folder: Path, *, steps: int) -> RunOrder:
    """Have an order keep its best state, answer prompts and score general rows."""
    train = order.resolved_spec.spec.train
    train.data.validation = "validation.jsonl"
    train.data.general = "general.jsonl"
    train.validate_every_steps = 2
    train.optim.max_steps = steps
    train.optim.micro_batch_size = 4
    train.checkpoint.best_by = "validation_loss"
    train.early_stop.patience = 3
    train.samples.prompts.append("red")
    train.samples.every_steps = 4
    train.samples.max_new_tokens = 2
    rows = [trl_lab.chat(*pair) for pair in trl_lab.PAIRS]
    files = {"train": rows * 4, "validation": [trl_lab.chat(*pair) for pair in WRONG], "general": rows}
    paths = {role: trl_lab.write_rows(folder / f"{role}.jsonl", content) for role, content in files.items()}
    resolved = trl_lab.resolved(
        Path(order.resolved_spec.base.path), data=list(paths.items()), spec=order.resolved_spec.spec
    )
    return trl_lab.order(resolved, folder / "work")


@pytest.mark.parametrize(
    ("adaptation", "options"), [("lora", {}), ("full", {"zero_stage": 2, "offload_optimizer": "cpu"})]
)
def test_a_run_is_followed_as_by_trl(
    base: Path, tmp_path: Path, adaptation: str, options: dict[str, object]
) -> None:
    order = watched(lab.make_order(base, tmp_path, adaptation=adaptation, **options), tmp_path, steps=40)
    zero, trl = lab.here(order), lab.by_trl(order, tmp_path / "trl")
    assert lab.losses(zero) == pytest.approx(lab.losses(trl), abs=1e-4)
    assert lab.validation_losses(zero) == pytest.approx(lab.validation_losses(trl), abs=1e-4)
    (stopped,) = zero.events_of("stopped_early")
    (expected,) = trl.events_of("stopped_early")
    assert (stopped.step, stopped.best.step) == (expected.step, expected.best.step)
    assert stopped.best.step < stopped.step < 40
    assert any("not that of the last step" in notice for notice in zero.notices)
    assert zero.samples == trl.samples
    assert [item.extra["general/token_accuracy"] for item in zero.told if item.extra] == [
        item.extra["general/token_accuracy"] for item in trl.told if item.extra
    ]
    for path in zero.output.glob("*.safetensors"):
        found, expected = load_file(path), load_file(trl.output / path.name)
        assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-3
    again = lab.resumed(order, tmp_path / "again", zero.checkpoints[0])
    lab.here(again)
    assert lab.output_bytes(again) == lab.output_bytes(order), "a resumed run comes to the same best state"


def test_a_lost_run_is_rolled_back_and_then_given_up(base: Path, tmp_path: Path) -> None:
    order = lab.make_order(base, tmp_path, steps=20)
    train = order.resolved_spec.spec.train
    train.optim.learning_rate, train.optim.max_grad_norm, train.optim.warmup_ratio = 1e30, 1e30, 0.5
    train.divergence.max_rollbacks = 1
    context = lab.MemoryContext(order)
    with pytest.raises(TunefleetError, match="rolled back once") as caught:
        lab.run_here(context)
    assert caught.value.reason is Reason.TRAINING_DIVERGED
    (rollback,) = context.events_of("rollback")
    assert rollback.learning_rate == pytest.approx(5e29)


def test_a_disk_too_small_is_told_before_the_first_step(base: Path, tmp_path: Path) -> None:
    with process_lab.small_disk(tmp_path / "disk", kibibytes=512) as disk:
        order = lab.moved(lab.make_order(base, tmp_path, adaptation="full"), disk / "work")
        Path(order.work_dir).mkdir()
        context = lab.MemoryContext(order)
        with pytest.raises(TunefleetError, match="free") as caught:
            lab.run_here(context)
        assert caught.value.reason is Reason.DISK_FULL
        assert (context.step, context.checkpoints) == (0, [])
        assert not list(Path(order.work_dir).glob("preflight*")), "the trial leaves nothing"


def test_a_disk_that_fills_up_ends_the_run_and_harms_no_checkpoint(base: Path, tmp_path: Path) -> None:
    """Another program takes the disk after the first checkpoint; with room again the run goes on from it."""
    whole = lab.make_order(base, tmp_path, adaptation="full")
    lab.here(whole)
    with process_lab.small_disk(tmp_path / "disk", kibibytes=64 << 10) as disk:
        order = lab.moved(whole, disk / "work")
        Path(order.work_dir).mkdir()

        def fill(now: lab.MemoryContext) -> StopMode.ValueType:
            if now.checkpoints and not (disk / "ballast").exists():
                (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - (8 << 10)))
            return StopMode.STOP_MODE_UNSPECIFIED

        context = lab.MemoryContext(order, stop_when=fill)
        with pytest.raises(Exception, match=r".") as caught:  # the worker's process classes it
            lab.run_here(context)
        assert from_exception(caught.value).reason is Reason.DISK_FULL
        assert context.checkpoints == [lab.EVERY]
        (disk / "ballast").unlink()
        again = lab.resumed(order, tmp_path / "again", lab.EVERY)
        lab.here(again)
        assert lab.output_bytes(again) == lab.output_bytes(whole)


@pytest.mark.slow  # two processes that import everything
def test_two_devices_keep_the_best_state_that_one_of_trl_keeps(base: Path, tmp_path: Path) -> None:
    order = watched(lab.make_order(base, tmp_path), tmp_path, steps=40)
    order.resolved_spec.spec.train.optim.micro_batch_size = 2
    trl = lab.by_trl(order, tmp_path / "trl")
    zero = lab.succeeded(order)
    told = [event.stopped_early.best.step for event in zero.events if event.HasField("stopped_early")]
    assert told == [event.best.step for event in trl.events_of("stopped_early")]
    found, expected = (
        load_file(Path(run.work_dir) / "output" / "adapter_model.safetensors")
        for run in (zero.order, trl.order)
    )
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-3
