"""Rewards: what each gives for an answer, and what is said about a wrong one in a job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.job.v1.spec_pb2 import Reward as AskedReward
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.plugins import load_plugins
from tunefleet_core.rewards import REWARDS, NamedScorer, make_scorers, missing_field

FIELD = "train.method.grpo.rewards"


def scorer(name: str, **options: object) -> NamedScorer:
    asked = AskedReward(name=name)
    asked.options.update(options)
    (found,) = make_scorers([asked], REWARDS, field=FIELD)
    return found


def score(name: str, answer: str, *, row: dict[str, object] | None = None, **options: object) -> float:
    (value,) = scorer(name, **options).scorer.score([row or {}], [answer])
    return value


@pytest.mark.parametrize(
    ("answer", "options", "value"),
    [(" rot\n", {}, 1.0), ("Rot", {}, 0.0), ("ROT", {"ignore_case": True}, 1.0), ("rot.", {}, 0.0)],
)
def test_exact_match(answer: str, options: dict[str, object], value: float) -> None:
    assert score("exact_match", answer, row={"answer": "rot"}, **options) == value


def test_exact_match_may_look_at_another_field() -> None:
    assert score("exact_match", "5", row={"result": 5}, field="result") == 1.0


def test_regex_is_searched_over_lines() -> None:
    assert score("regex", "a\nb", pattern="a.b") == 1.0
    assert score("regex", "ab", pattern="^b") == 0.0


@pytest.mark.parametrize(
    ("answer", "required", "value"),
    [
        ('{"a": 1}', [], 1.0),
        ("[1]", [], 1.0),
        ("{'a': 1}", [], 0.0),
        ('{"a": 1, "b": 2}', ["a", "b"], 1.0),
        ('{"a": 1}', ["a", "b"], 0.75),
        ("[1]", ["a"], 0.5),
        ("[" * 100_000, [], 0.0),
    ],
)
def test_json_valid(answer: str, required: list[str], value: float) -> None:
    assert score("json_valid", answer, required=required) == value


@pytest.mark.parametrize(
    ("answer", "wanted", "value"),
    [
        ("so 3 + 4 = 7.", "7", 1.0),
        ("\\boxed{7} of 9", "7", 1.0),
        ("half of it: #### 1,200", 1200, 1.0),
        ("0.5", "1/2", 1.0),
        ("-3", "3", 0.0),
        ("7 or 8", "7", 0.0),
        ("nothing", "7", 0.0),
        ("1/0", "7", 0.0),
        ("7", "seven", 0.0),
    ],
)
def test_math_answer(answer: str, wanted: object, value: float) -> None:
    assert score("math_answer", answer, row={"answer": wanted}) == value


@given(answer=st.text(max_size=200), wanted=st.text(max_size=20))
def test_whatever_is_answered_is_scored_between_0_and_1(answer: str, wanted: str) -> None:
    for name in ("exact_match", "math_answer", "json_valid"):
        assert 0 <= score(name, answer, row={"answer": wanted}) <= 1


@pytest.mark.parametrize(
    ("name", "options", "field", "says"),
    [
        ("exact_mach", {}, "[0].name", "did you mean 'exact_match'?"),
        ("regex", {}, "[0].options", "pattern is missing"),
        ("regex", {"pattern": "("}, "[0].options", "is no regular expression"),
        ("regex", {"patern": "a"}, "[0].options", "patern is no option; it takes pattern"),
        ("exact_match", {"field": 3}, "[0].options", "field must be a text"),
        ("exact_match", {"ignore_case": "yes"}, "[0].options", "must be true or false"),
        ("json_valid", {"required": "a"}, "[0].options", "must be a list of keys"),
    ],
)
def test_a_wrong_reward_is_refused_by_field(
    name: str, options: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(TunefleetError) as caught:
        scorer(name, **options)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.message.startswith(f"{FIELD}{field}")
    assert says in caught.value.message
    assert caught.value.hint


def test_weights_and_needs_come_with_the_scorer() -> None:
    asked = AskedReward(name="exact_match", weight=0.5)
    (found,) = make_scorers([asked], REWARDS, field=FIELD)
    assert (found.weight, scorer("regex", pattern="a").weight) == (0.5, 1.0)
    assert missing_field([found], {"answer": ""}) is None
    assert missing_field([found], {"answer": None}) == ("exact_match", "answer")
    assert missing_field([scorer("regex", pattern="a")], {}) is None


def test_rewards_come_from_plugins_and_ours_is_one() -> None:
    assert {reward.name for reward in REWARDS} <= {reward.name for reward in load_plugins("").rewards()}
