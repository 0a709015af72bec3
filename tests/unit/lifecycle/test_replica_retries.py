"""A replica that failed: tried again if its cause may pass, not for ever, and a restart shortens no wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tunefleet.deployment.v1.rollout_pb2 import RolloutPolicy
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import DeploymentReported, Policy, desired_for, events_of
from tunefleet_core.testing import samples

sys.path.append(str(Path(__file__).parent))
from replica_desk import (
    SECOND,
    UID,
    attach,
    begin,
    events,
    places,
    routes,
    say,
    server,
    status,
    version,
    word,
)

LOST = Reason.WORKER_LOST
PATIENT = Policy(lease_term_seconds=10_000, replica_tries=3)
"""For one that is to hear of its servers only what a test says: no silence is a loss."""


def give_up(desk: Any, now: float, uid: str = UID, reason: Reason = LOST) -> None:
    """Have a server give a replica up, and let go of it as soon as it is not wanted there any more."""
    service = desk.world.replica(uid).service
    say(desk, now, uid, "FAILED", reason)
    if word(desk, uid) == "WAITING_RETRY":
        assert uid not in [held.uid for held in desired_for(desk.world, service).deployments]
        say(desk, now, uid, "DELETED", service=service)


@pytest.fixture
def one(desk: Any) -> Any:
    """A gateway, a server `a`, and one READY replica; a replica gets three tries."""
    begin(desk, PATIENT)
    say(desk, 1, UID, "READY")
    return desk


def test_one_that_was_lost_is_tried_again_after_a_while_and_history_says_so(one: Any) -> None:
    give_up(one, 10)
    row = one.world.replica(UID)
    assert (word(one, UID), version(one), routes(one)) == ("WAITING_RETRY", "WAITING_RETRY", [])
    assert row.reason == "Replica 1 failed; it is tried again after 5 s, try 2 of 3."
    assert (row.failures, row.due_time) == (1, samples.moment(15).wall)
    assert b"WORKER_LOST" in row.error
    one.tick(14)
    assert word(one, UID) == "WAITING_RETRY"

    one.tick(15)

    row = one.world.replica(UID)
    assert (row.state, row.service, row.error, row.reason) == (2, "services/a", b"", "")
    assert [held.uid for held in desired_for(one.world, "services/a").deployments] == [UID]
    say(one, 16, UID, "READY")
    assert (version(one), routes(one)) == ("READY", [UID])
    assert events(one)[-3:] == ["all WAITING_RETRY", "all STARTING", "all READY"]
    waiting = events_of(one.world.traffic(UID))[-3].state_changed
    assert waiting.reason.endswith("try 2 of 3.")
    assert waiting.error.message


def test_each_wait_is_longer_and_the_last_try_is_the_last(one: Any) -> None:
    give_up(one, 10)
    one.tick(15)
    give_up(one, 16)
    one.tick(25)
    assert word(one, UID) == "WAITING_RETRY", "ten seconds now"
    one.tick(26)
    give_up(one, 27)
    row = one.world.replica(UID)
    assert (word(one, UID), version(one)) == ("FAILED", "FAILED")
    assert (row.failures, row.reason) == (3, "Replica 1 was tried 3 times and is given up.")
    one.tick(10_000)
    assert word(one, UID) == "FAILED"


@pytest.mark.parametrize(
    "reason",
    [Reason.NUMBERS_MISMATCH, Reason.TEMPLATE_MISMATCH, Reason.BACKEND_FAILED, Reason.CAPABILITY_UNSUPPORTED,
     Reason.BASE_INVALID, Reason.MANIFEST_NOT_FOUND, Reason.FIELD_INVALID, Reason.BACKEND_NOT_INSTALLED],
)  # fmt: skip
def test_what_another_try_cannot_change_stays_failed(one: Any, reason: Reason) -> None:
    give_up(one, 10, reason=reason)
    one.tick(10_000)
    assert (word(one, UID), one.world.replica(UID).failures) == ("FAILED", 0)
    assert reason.value.encode() in one.world.deployment(UID).error


def test_failures_are_forgotten_once_it_has_served_for_a_while(one: Any) -> None:
    give_up(one, 10)
    one.tick(15)
    say(one, 16, UID, "READY")
    one.tick(615)
    assert one.world.replica(UID).failures == 1
    one.tick(616)
    assert one.world.replica(UID).failures == 0
    give_up(one, 700)
    one.tick(705)
    say(one, 706, UID, "READY")
    one.restart(1000)
    ready = status(UID, "READY")
    ready.earlier_tries = 2
    attach(one, 1001, server("a"), held=(ready,))
    one.tick(1599)
    assert one.world.replica(UID).failures == 1, "a restart counts from its own beginning"
    one.tick(1600)
    assert one.world.replica(UID).failures == 0


def test_what_is_still_said_of_an_earlier_try_is_fenced(one: Any) -> None:
    give_up(one, 10)
    one.tick(15)
    (held,) = desired_for(one.world, "services/a").deployments
    assert held.replica.earlier_tries == 1, "so its server begins it anew, though it may hold the first"
    for state in ("FAILED", "DELETED"):
        late = DeploymentReported(
            at=samples.moment(16), service="services/a", epoch=1, status=status(UID, state, LOST)
        )
        assert one.refused(late).reason is Reason.FENCED
    attach(one, 17, server("a"), held=(status(UID, "FAILED", LOST),))
    assert (word(one, UID), one.world.replica(UID).failures) == ("STARTING", 1)


def test_it_goes_to_another_server_if_there_is_one(one: Any) -> None:
    attach(one, 5, server("b"))
    give_up(one, 10)
    one.tick(15)
    assert places(one) == {1: ("b", ())}


def test_others_of_its_version_serve_meanwhile_and_scaling_down_takes_it_first(one: Any) -> None:
    attach(one, 2, server("b"))
    one.do(samples.scale(2, 2))
    say(one, 3, SECOND, "READY")
    give_up(one, 10)
    assert (version(one), routes(one)) == ("DEGRADED", [SECOND])
    assert "1 WAITING_RETRY" in events(one)
    one.do(samples.scale(11, 1))
    assert (word(one, UID), version(one)) == ("DELETED", "READY")
    one.tick(100)
    assert word(one, UID) == "DELETED"


def test_a_wait_goes_on_through_a_restart_and_the_loss_of_its_server(one: Any) -> None:
    give_up(one, 10)
    one.restart(13)
    attach(one, 13, server("a"), held=(status(UID, "FAILED", LOST),))
    one.tick(14)
    assert word(one, UID) == "WAITING_RETRY"
    one.tick(15)
    assert word(one, UID) == "STARTING"

    say(one, 17, UID, "FAILED", LOST)
    one.policy = Policy(lease_term_seconds=15, replica_tries=3)
    one.do(samples.heartbeat(18, "services/a", one.epoch("services/a")))
    one.tick(23)
    one.tick(33)
    assert one.world.replica(UID).earlier_tries == 2
    assert (word(one, UID), one.world.replica(UID).service) == ("PENDING", ""), (
        "it was due when that was lost"
    )


def test_a_candidate_is_waited_for_while_it_is_tried_again_and_goes_when_it_is_given_up(one: Any) -> None:
    new = "uid-of-better"
    attach(one, 2, server("b"))
    one.do(samples.roll_out(2))
    for now in (10, 30, 60):
        assert one.world.traffic(UID).is_rolling
        give_up(one, now, new)
        one.tick(now + 20)
    assert not one.world.traffic(UID).is_rolling
    assert routes(one) == [UID]


@pytest.mark.parametrize(("limit", "left"), [(None, 290), (30, 20), (900, 890)])
def test_a_drain_has_what_is_left_of_its_time_after_a_restart(one: Any, limit: int | None, left: int) -> None:
    policy = RolloutPolicy()
    if limit is not None:
        policy.drain_limit.seconds = limit
    new = "uid-of-better"
    attach(one, 2, server("b"))
    one.do(samples.roll_out(2, **({"drain_limit": policy.drain_limit} if limit else {})))
    say(one, 3, new, "READY")
    one.do(samples.roll_back(10))
    assert word(one, new) == "DRAINING"
    service = one.world.replica(new).service

    one.restart(20)
    attach(one, 21, server(service.rpartition("/")[2]), held=(status(new, "READY"),))

    one.tick(20 + left - 1)
    assert word(one, new) == "DRAINING"
    one.tick(20 + left)
    assert word(one, new) == "STOPPING"
