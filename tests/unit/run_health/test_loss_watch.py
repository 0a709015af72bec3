from __future__ import annotations

import json
import math
import random

import pytest

from tunefleet_core.run_health import LossWatch, Verdict


def verdicts(losses: list[float], watch: LossWatch | None = None) -> list[Verdict]:
    found: list[Verdict] = []
    watch = watch or LossWatch()
    for loss in losses:
        watch, verdict = watch.after(loss)
        found.append(verdict)
    return found


def learning(steps: int, *, start: float = 5.0, end: float = 0.5, noise: float = 0.05) -> list[float]:
    draw = random.Random(7)
    return [
        (end + (start - end) * math.exp(-step / 20)) * (1 + noise * draw.uniform(-1, 1))
        for step in range(steps)
    ]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4])
def test_a_run_that_learns_is_ordinary_however_noisy(noise: float) -> None:
    assert set(verdicts(learning(400, noise=noise))) == {Verdict.ORDINARY}


def test_a_run_that_learns_nothing_is_ordinary() -> None:
    assert set(verdicts([2.0 + 0.1 * (step % 3) for step in range(200)])) == {Verdict.ORDINARY}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_the_end(loss: float) -> None:
    assert verdicts([2.0, loss])[-1] is Verdict.DIVERGED


def test_a_gradient_that_is_no_number_is_the_end_before_the_loss_shows_it() -> None:
    assert LossWatch().after(2.0, math.nan)[1] is Verdict.DIVERGED


def test_one_odd_batch_is_a_spike_and_the_next_step_is_ordinary() -> None:
    losses = learning(40)
    found = verdicts([*losses, 9.0, losses[-1]])
    assert found[-2:] == [Verdict.SPIKE, Verdict.ORDINARY]
    assert found.count(Verdict.SPIKE) == 1


def test_a_new_level_is_no_row_of_spikes() -> None:
    found = verdicts([*[0.5] * 30, *[1.2] * 30])
    assert found.count(Verdict.SPIKE) == 2


def test_a_loss_that_stays_far_above_its_beginning_is_lost() -> None:
    found = verdicts([*[3.0] * 10, *[50.0] * 10])
    assert found.index(Verdict.DIVERGED) == 10 + 4


def test_what_was_learned_and_is_lost_again_is_lost() -> None:
    found = verdicts([*learning(60), *[5.2] * 30])
    assert Verdict.DIVERGED in found[60:]
    assert Verdict.DIVERGED not in found[:60]


def test_over_fitting_noise_near_zero_is_no_spike() -> None:
    draw = random.Random(1)
    assert Verdict.SPIKE not in verdicts([draw.uniform(0.0001, 0.2) for _ in range(200)])


def test_losses_without_a_level_are_judged_by_their_being_numbers() -> None:
    watch = LossWatch(follows_trend=False)
    assert set(verdicts([*[0.0] * 20, 90.0, *[80.0] * 20], watch)) == {Verdict.ORDINARY}
    assert watch.after(math.nan)[1] is Verdict.DIVERGED


def test_what_a_checkpoint_keeps_judges_alike() -> None:
    losses = [*learning(40), 9.0, *learning(10), *[40.0] * 6]
    whole = verdicts(losses)
    for cut in range(0, len(losses), 7):
        watch = LossWatch()
        for loss in losses[:cut]:
            watch, _ = watch.after(loss)
        kept = json.loads(json.dumps(watch.to_json(), allow_nan=False))
        assert verdicts(losses[cut:], LossWatch().resumed(kept)) == whole[cut:]
