"""Callers are spread over two versions by their share, and stay where they are."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet_services.gateway.routes import Route, RouteTable
from tunefleet_services.gateway.splits import Split, caller_of, is_for_candidate

_USERS = [f"user-{number}" for number in range(2000)]


def side(
    *, is_candidate: bool, weight: int, rollout: str = "r1", address: str = "http://127.0.0.1:1"
) -> Route:
    return Route(
        model="tickets",
        engine_addresses=(address,),
        engine_model="better@1" if is_candidate else "tickets@1",
        project="default",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        version="new" if is_candidate else "old",
        weight=weight,
        split=Split(rollout=rollout, is_candidate=is_candidate, sticky="user"),
    )


def test_a_share_is_that_share_of_the_users() -> None:
    for percent in (5, 25, 50):
        share = sum(is_for_candidate("r1", user, percent) for user in _USERS) / len(_USERS)
        assert share == pytest.approx(percent / 100, abs=0.02)
    assert not any(is_for_candidate("r1", user, 0) for user in _USERS)
    assert all(is_for_candidate("r1", user, 100) for user in _USERS)


@given(
    user=st.text(min_size=1, max_size=40),
    rollout=st.text(string.hexdigits, min_size=1, max_size=32),
    steps=st.lists(st.integers(0, 100), max_size=6).map(sorted),
)
def test_a_caller_never_alternates_and_only_moves_to_the_candidate(
    user: str, rollout: str, steps: list[int]
) -> None:
    seen = [is_for_candidate(rollout, user, percent) for percent in steps for _ in range(2)]
    assert all(not before or after for before, after in pairwise(seen))


def test_each_roll_out_begins_with_other_callers() -> None:
    first = {user for user in _USERS if is_for_candidate("r1", user, 10)}
    second = {user for user in _USERS if is_for_candidate("r2", user, 10)}
    assert len(first & second) < len(first) / 2


def test_a_caller_who_is_known_by_nothing_gets_either() -> None:
    assert {is_for_candidate("r1", "", 50) for _ in range(200)} == {True, False}


@pytest.mark.parametrize(
    ("sticky", "fields", "session", "caller"),
    [
        ("user", {"user": "u", "safety_identifier": "s"}, "h", "s"),
        ("user", {"user": "u", "prompt_cache_key": "k"}, "", "u"),
        ("user", {"user": 7, "prompt_cache_key": "k"}, "", "k"),
        ("user", {}, "h", "h"),
        ("session", {"user": "u", "prompt_cache_key": "k"}, "h", "h"),
        ("session", {"user": "u", "prompt_cache_key": "k"}, "", "k"),
        ("session", {"user": "u"}, "", "u"),
        ("session", {}, "", ""),
        ("none", {"user": "u"}, "h", ""),
    ],
)
def test_what_a_caller_is_known_by(sticky: str, fields: dict[str, object], session: str, caller: str) -> None:
    assert caller_of(sticky, fields, session) == caller  # type: ignore[arg-type]  # words of StickyBy


def test_a_table_holds_both_sides_of_a_roll_out_under_one_name() -> None:
    old, new = side(is_candidate=False, weight=95), side(is_candidate=True, weight=5)
    table = RouteTable.of([new, old], [])
    route = table.routes["tickets"]
    assert (route.version, list(table.routes)) == ("old", ["tickets"])
    versions = {route.version_for(user).version for user in _USERS}
    assert versions == {"old", "new"}
    picked = sum(route.version_for(user).version == "new" for user in _USERS) / len(_USERS)
    assert picked == pytest.approx(0.05, abs=0.02)


def test_replicas_of_a_side_stay_together_and_one_side_alone_has_everything() -> None:
    twins = [side(is_candidate=True, weight=100, address=f"http://127.0.0.1:{port}") for port in (1, 2)]
    route = RouteTable.of(twins, []).routes["tickets"]
    assert route.engine_addresses == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert {route.version_for(user).version for user in _USERS[:50]} == {"new"}
