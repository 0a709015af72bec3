from __future__ import annotations

import json
import random

import pytest

from tunefleet_core.run_health import CollapseWatch, GeneralWatch, score_general


def collapses(loads: list[float], *, even: float = 0.25, watch: CollapseWatch | None = None) -> list[int]:
    watch, told = watch or CollapseWatch(), []
    for step, load in enumerate(loads):
        watch, tells = watch.after(load, even)
        if tells:
            told.append(step)
    return told


def test_a_collapse_is_told_once_however_long_it_lasts() -> None:
    assert collapses([0.3] * 10 + [1.0] * 50 + [0.3] * 5 + [1.0] * 50) == [14]


@pytest.mark.parametrize("loads", [[0.5] * 50, [1.0, 1.0, 1.0, 1.0, 0.3] * 20])
def test_an_uneven_load_and_single_steps_are_no_collapse(loads: list[float]) -> None:
    assert not collapses(loads)


def test_what_counts_is_the_distance_from_an_even_load() -> None:
    assert not collapses([0.85] * 20, even=0.5), "7 tenths of the way"
    assert collapses([0.92] * 20, even=0.5)
    assert not collapses([1.0] * 20, even=1.0), "one expert alone cannot collapse"


def test_a_resumed_run_does_not_tell_it_again() -> None:
    watch = CollapseWatch()
    for _ in range(7):
        watch, _ = watch.after(1.0, 0.25)
    kept = json.loads(json.dumps(watch.to_json()))
    assert not collapses([1.0] * 20, watch=CollapseWatch().resumed(kept))


def test_a_drop_within_chance_is_no_forgetting() -> None:
    draw = random.Random(3)
    before = [draw.random() for _ in range(60)]
    noisy = [min(1.0, max(0.0, value + draw.uniform(-0.3, 0.28))) for value in before]
    assert not score_general(before, noisy).is_forgetting


def test_a_sure_drop_of_less_than_a_point_is_no_forgetting() -> None:
    before = [0.5] * 100
    assert not score_general(before, [0.495 + 0.001 * (row % 2) for row in range(100)]).is_forgetting


def test_a_drop_of_two_points_on_every_row_is_forgetting() -> None:
    score = score_general([0.5] * 100, [0.48 + 0.001 * (row % 2) for row in range(100)])
    assert score.is_forgetting
    assert score.before == pytest.approx(0.5)
    assert score.now == pytest.approx(0.4805)


def test_one_row_proves_nothing() -> None:
    assert not score_general([0.9], [0.1]).is_forgetting


def test_the_first_scoring_is_what_later_ones_are_held_against_and_it_is_told_once() -> None:
    watch, score, tells = GeneralWatch().after([0.9, 0.8])
    assert (score.now, tells) == (pytest.approx(0.85), False)
    watch, score, tells = watch.after([0.5, 0.41])
    assert tells
    kept = json.loads(json.dumps(watch.to_json()))
    watch, score, tells = GeneralWatch().resumed(kept).after([0.3, 0.2])
    assert not tells
    assert score.before == pytest.approx(0.85)
