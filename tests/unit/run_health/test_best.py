from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tunefleet_core.run_health import BestSoFar, keep_decisions, kept_decisions, link_folder


def judged(best: BestSoFar, *values: float) -> BestSoFar:
    for step, value in enumerate(values, 1):
        best = best.after(step, value)
    return best


LOSS = BestSoFar(metric="validation_loss")


@pytest.mark.parametrize(
    ("values", "step", "since"),
    [
        ((), 0, 0),
        ((3.0,), 1, 0),
        ((3.0, 2.0, 1.0), 3, 0),
        ((3.0, 1.0, 2.0, 1.5), 2, 2),
        ((3.0, 1.0, 1.0), 2, 1),  # equal is no better
        ((math.nan, 3.0, math.inf), 2, 1),
    ],
)
def test_the_lowest_loss_is_the_best(values: tuple[float, ...], step: int, since: int) -> None:
    best = judged(LOSS, *values)
    assert (best.step, best.since) == (step, since)


def test_the_highest_accuracy_is_the_best() -> None:
    assert judged(BestSoFar(metric="token_accuracy"), 0.1, 0.5, 0.3).step == 2


def test_a_gain_within_the_delta_does_not_count() -> None:
    best = BestSoFar(metric="validation_loss", min_delta=0.5)
    assert judged(best, 3.0, 2.6).step == 1
    assert judged(best, 3.0, 2.4).step == 2


def test_patience_ends_after_so_many_in_a_row_and_zero_never_does() -> None:
    best = judged(LOSS, 1.0, 2.0, 2.0)
    assert not best.is_exhausted(3)
    assert best.is_exhausted(2)
    assert not best.is_exhausted(0)
    assert not judged(LOSS, 1.0, 2.0, 0.5).is_exhausted(1)


def test_what_a_checkpoint_keeps_decides_alike(tmp_path: Path) -> None:
    values = (3.0, 1.0, 2.0, 0.5, 4.0)
    for cut in range(len(values) + 1):
        early = judged(LOSS, *values[:cut])
        folder = tmp_path / str(cut)
        folder.mkdir()
        keep_decisions(folder, {"best": early.to_json()})
        resumed = LOSS.resumed(kept_decisions(folder)["best"])
        for step, value in enumerate(values[cut:], cut + 1):
            resumed = resumed.after(step, value)
        assert resumed == judged(LOSS, *values)
        json.loads((folder / "decisions.json").read_text())  # NaN would be no JSON for others


def test_a_checkpoint_of_before_has_no_decisions(tmp_path: Path) -> None:
    assert kept_decisions(tmp_path) == {}
    keep_decisions(tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_linked_files_share_their_bytes_and_outlive_the_first_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(b"12345")
    link_folder(source, tmp_path / "deep" / "target")
    linked = tmp_path / "deep" / "target" / "weights"
    assert linked.stat().st_ino == (source / "weights").stat().st_ino
    (source / "weights").unlink()
    assert linked.read_bytes() == b"12345"
