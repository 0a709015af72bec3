"""A step that does not fit in the middle of a run: classed, with the smallest fix.

There is no GPU here, so the library's own exception is raised by a double; the tests of the preflight
meet a real bound of the system.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trl_lab as lab

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.attempts import PERMANENT_REASONS


def _raise_from_step(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """Stand in for a device whose memory ends at a step."""
    from tunefleet_trl.trainer import RunTraining

    compute = RunTraining.compute_loss

    def full_device_double(trainer, model, *arguments, **further):
        if trainer.state.global_step + 1 == step:
            raise error
        return compute(trainer, model, *arguments, **further)

    monkeypatch.setattr(RunTraining, "compute_loss", full_device_double)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has 0 bytes free."),
        MemoryError(),
    ],
)
def test_a_step_that_does_not_fit_names_the_smallest_fix(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    _raise_from_step(monkeypatch, 3, error)
    with pytest.raises(TunefleetError, match="Step 3") as caught:
        lab.run_colours(base, tmp_path, lab.train_spec(steps=5, micro_batch_size=4))
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert caught.value.reason in PERMANENT_REASONS, "unchanged it would not fit again"
    assert "train.optim.micro_batch_size to 2 (it is 4)" in caught.value.hint
    assert (caught.value.metadata["field"], caught.value.metadata["value"]) == (
        "train.optim.micro_batch_size",
        "2",
    )


def test_the_fix_trains_to_the_same_result(base: Path, tmp_path: Path) -> None:
    losses = []
    for micro in (4, 2):
        (tmp_path / str(micro)).mkdir()
        spec = lab.train_spec(steps=3, dropout=0.0, micro_batch_size=micro)
        context = lab.run_colours(base, tmp_path / str(micro), spec)
        losses.append([item.loss for item in context.told if item.HasField("loss")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_another_error_of_a_step_stays_what_it_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _raise_from_step(monkeypatch, 2, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        lab.run_colours(base, tmp_path, lab.train_spec(steps=3))
