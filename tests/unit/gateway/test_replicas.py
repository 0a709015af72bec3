"""Requests with one beginning go to one replica, unless it is clearly busier; others to the idlest."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tunefleet_services.gateway.affinity import affinity_of
from tunefleet_services.gateway.replicas import Replicas

ADDRESSES = [f"http://10.0.0.{at}:8000" for at in range(4)]


def key(text):
    return affinity_of("m@1", {"prompt_cache_key": text})


def test_without_a_beginning_the_idlest_is_asked_first_and_equals_take_turns():
    replicas = Replicas()
    firsts = [replicas.order(ADDRESSES, b"")[0] for _ in range(8)]
    assert Counter(firsts) == dict.fromkeys(ADDRESSES, 2)
    for at, address in enumerate(ADDRESSES):
        for _ in range(at if at else 3):
            replicas.take(address)
    assert replicas.order(ADDRESSES, b"")[0] == ADDRESSES[1]
    assert sorted(replicas.order(ADDRESSES, b"")) == ADDRESSES
    replicas.give_back(ADDRESSES[1])
    assert ADDRESSES[1] not in replicas.outstanding


def test_one_beginning_has_one_replica_and_many_are_spread_evenly():
    replicas = Replicas()
    homes = {text: replicas.order(ADDRESSES, key(text))[0] for text in map(str, range(4000))}
    assert homes == {text: replicas.order(ADDRESSES[::-1], key(text))[0] for text in homes}
    counts = Counter(homes.values())
    # 1000 each are expected; four standard deviations of the binomial are 110.
    assert all(abs(count - 1000) < 110 for count in counts.values()), counts


def test_a_replica_that_is_gone_moves_its_own_beginnings_only():
    replicas = Replicas()
    texts = [str(at) for at in range(500)]
    before = {text: replicas.order(ADDRESSES, key(text))[0] for text in texts}
    after = {text: replicas.order(ADDRESSES[1:], key(text))[0] for text in texts}
    assert {text for text in texts if before[text] != after[text]} == {
        text for text in texts if before[text] == ADDRESSES[0]
    }


def test_no_replica_gets_more_than_a_quarter_above_the_mean_however_many_ask_the_same():
    replicas = Replicas()
    for total in range(1, 201):
        replicas.take(replicas.order(ADDRESSES, key("the one prompt that everybody sends"))[0])
        assert max(replicas.outstanding.values()) <= max(1, 1.25 * total / len(ADDRESSES) + 1)
    ranked = sorted(replicas.outstanding.values(), reverse=True)
    assert ranked[0] > ranked[-1]  # it is still preferred: least load alone would make them equal


def test_a_conversation_stays_while_its_replica_is_not_clearly_busier():
    replicas = Replicas()
    home = replicas.order(ADDRESSES, key("a"))[0]
    for address in ADDRESSES:
        for _ in range(4):
            replicas.take(address)
    assert replicas.order(ADDRESSES, key("a"))[0] == home
    replicas.take(home)
    assert replicas.order(ADDRESSES, key("a"))[0] == home  # one more than the others is not clearly busier
    for _ in range(3):
        replicas.take(home)
    assert replicas.order(ADDRESSES, key("a"))[0] != home


def test_a_replica_that_did_not_answer_is_asked_last():
    replicas = Replicas()
    for affinity in (b"", key("a")):
        first = replicas.order(ADDRESSES, affinity)[0]
        replicas.avoid(first)
        assert first in replicas.order(ADDRESSES, affinity)[-2:]
    assert len(replicas.order(ADDRESSES, b"")) == 4
    for address in ADDRESSES:
        replicas.avoid(address)
    assert sorted(replicas.order(ADDRESSES, key("a"))) == ADDRESSES  # better than nobody


def test_a_draining_replica_is_asked_last_and_is_drained_at_the_end_of_its_requests():
    replicas = Replicas()
    uids = {"a": "r1", "b": "r2"}
    for address in ("a", "b"):
        replicas.take(address, uids[address])
    replicas.drain(["r1"])
    assert replicas.draining_last(["a", "b"], uids) == ["b", "a"]
    assert replicas.drained() == []
    replicas.changed.clear()
    replicas.give_back("b", "r2")
    assert not replicas.changed.is_set()
    replicas.give_back("a", "r1")
    assert replicas.changed.is_set()
    assert replicas.drained() == ["r1"]
    replicas.drain([])
    assert replicas.drained() == []


def turns(*texts, system="Be brief."):
    roles = ["system", *(("user", "assistant")[at % 2] for at in range(len(texts)))]
    return [{"role": role, "content": text} for role, text in zip(roles, (system, *texts), strict=True)]


def test_every_turn_of_a_conversation_has_the_key_of_its_first():
    first = affinity_of("m@1", {"messages": turns("hello")})
    assert first
    assert affinity_of("m@1", {"messages": turns("hello", "hi", "more"), "seed": 3}) == first
    others = [
        affinity_of("m@1", {"messages": turns("hullo")}),
        affinity_of("m@1", {"messages": turns("hello", system="Be long.")}),
        affinity_of("m@2", {"messages": turns("hello")}),  # another adapter's cache is its own
        affinity_of("m@1", {"messages": turns("hello"), "prompt_cache_key": "user-7"}),
    ]
    assert len({first, *others}) == 5
    assert affinity_of("m@1", {"messages": turns("x"), "prompt_cache_key": "user-7"}) == others[3]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Once upon a time" * 20},
        {"input": "hello", "instructions": "Be brief."},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:1"}}]}]},
    ],
)
def test_each_api_has_a_key(fields):
    assert affinity_of("m", fields)


def test_bare_prompts_that_grow_keep_their_key():
    prompts = ["Once upon a time " * 20 + "and then " * at for at in range(3)]
    keys = [affinity_of("m", {"prompt": prompt}) for prompt in prompts]
    assert all(one == other for one, other in pairwise(keys))


@pytest.mark.parametrize(
    "fields",
    [{}, {"messages": 7}, {"messages": [7, {"content": 7}]}, {"prompt": [1, 2]}, {"prompt_cache_key": 3}],
)
def test_what_has_nothing_to_go_by_or_is_wrong_has_no_key(fields):
    assert affinity_of("m", fields) == b""
