"""Replicas: spread over servers, each moved, failed and taken down for itself; their version sums them up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import DeploymentDeleteRequested, desired_for
from tunefleet_core.testing import samples

sys.path.append(str(Path(__file__).parent))
from replica_desk import (
    SECOND,
    THIRD,
    UID,
    attach,
    beat,
    events,
    places,
    routes,
    say,
    server,
    status,
    version,
    word,
)

NAME = "projects/default/deployments/tuned"


@pytest.fixture
def two(desk: Any) -> Any:
    """A gateway, servers `a` and `b`, and one READY replica on each."""
    desk.do(samples.attached(0, samples.service("services/g", kind=ServiceKind.SERVICE_KIND_GATEWAY)))
    attach(desk, 0, server("a"), server("b"))
    desk.do(samples.deployment(0, replicas=2))
    say(desk, 1, UID, "READY")
    say(desk, 1, SECOND, "READY")
    return desk


def test_replicas_go_to_hosts_of_their_own_first_then_to_servers_of_one(desk: Any) -> None:
    attach(desk, 0, server("a", "one"), server("b", "one"), server("c", "two"))
    desk.do(samples.deployment(0, replicas=3))
    assert places(desk) == {1: ("a", ()), 2: ("c", ()), 3: ("b", ())}


def test_a_host_takes_as_many_as_it_has_devices(desk: Any) -> None:
    attach(desk, 0, server("a", devices={"gpu-0": "cuda", "gpu-1": "cuda"}))
    desk.do(samples.deployment(0, replicas=3))
    assert places(desk) == {1: ("a", ("gpu-0",)), 2: ("a", ("gpu-1",)), 3: ("", ())}
    reason = desk.world.replica(THIRD).reason
    assert reason == "Replica 3 fits on no server: a has 0 of 2 devices free and 1 is needed."


def test_replicas_of_two_adapters_share_engines_in_pairs(desk: Any) -> None:
    attach(desk, 0, server("a", devices={"gpu-0": "cuda", "gpu-1": "cuda"}))
    desk.do(samples.deployment(0, replicas=2))
    desk.do(samples.deployment(0, "other", replicas=2))
    own = [row.device_ids for row in desk.world.replicas_of("uid-of-other")]
    assert sorted(own) == [("gpu-0",), ("gpu-1",)]


def test_a_version_is_degraded_until_every_replica_is_ready(desk: Any) -> None:
    desk.do(samples.attached(0, samples.service("services/g", kind=ServiceKind.SERVICE_KIND_GATEWAY)))
    attach(desk, 0, server("a"), server("b"))
    desk.do(samples.deployment(0, replicas=2))
    assert (version(desk), routes(desk)) == ("STARTING", [])
    say(desk, 1, SECOND, "READY")
    assert (version(desk), routes(desk)) == ("DEGRADED", [SECOND])
    assert desk.world.deployment(UID).engine_address == f"http://{SECOND}"
    say(desk, 2, UID, "READY")
    assert (version(desk), routes(desk)) == ("READY", [UID, SECOND])
    assert events(desk) == [
        "all STARTING", "1 STARTING", "2 STARTING", "all DEGRADED", "2 READY", "all READY", "1 READY",
    ]  # fmt: skip


def test_one_too_many_waits_with_its_reason_and_the_others_serve(desk: Any) -> None:
    attach(desk, 0, server("a"))
    desk.do(samples.deployment(0, replicas=2))
    say(desk, 1, UID, "READY")
    assert version(desk) == "DEGRADED"
    assert desk.world.replica(SECOND).reason == (
        "Replica 2 fits on no server: a has replica 1 on its processor already."
    )
    etag = desk.world.deployment(UID).version
    attach(desk, 2, server("b"))
    row = desk.world.replica(SECOND)
    assert (row.service, row.reason, word(desk, SECOND)) == ("services/b", "", "STARTING")
    assert desk.world.deployment(UID).version > etag, "whoever watches the deployment sees it"


def test_without_a_server_the_reason_says_so(desk: Any) -> None:
    desk.do(samples.deployment(0))
    assert desk.world.replica(UID).reason == "Replica 1 waits: no server service is attached."
    attach(desk, 1, samples.service("services/x", kind=ServiceKind.SERVICE_KIND_SERVER, backends=[]))
    assert "x has no engine 'embedded'" in desk.world.replica(UID).reason


def test_a_lost_server_costs_its_replica_only_and_it_goes_elsewhere(two: Any) -> None:
    attach(two, 10, server("c"))
    beat(two, 14, "a", "g")
    two.tick(16)
    assert (word(two, UID), word(two, SECOND), version(two)) == ("READY", "STARTING", "DEGRADED")
    assert places(two)[2] == ("c", ())
    assert routes(two) == [UID]
    say(two, 17, SECOND, "READY")
    assert (version(two), routes(two)) == ("READY", [UID, SECOND])


def test_a_lost_replica_waits_for_its_server_if_there_is_no_other(two: Any) -> None:
    two.do(samples.scale(10, 3))
    beat(two, 14, "a", "g")
    two.tick(16)
    assert (word(two, SECOND), version(two)) == ("PENDING", "DEGRADED")
    reasons = [two.world.replica(uid).reason.partition(" fits")[2] for uid in (SECOND, THIRD)]
    assert reasons == [" on no server: a has replica 1 on its processor already."] * 2
    two.do(samples.scale(17, 2))
    assert (two.world.replica(THIRD), two.world.replica(SECOND).number) == (None, 2)
    attach(two, 20, server("b"), held=(status(SECOND, "READY"),))
    assert word(two, SECOND) == "STARTING", "what it held from before was given up"


def test_a_server_that_comes_back_with_its_replica_keeps_it(two: Any) -> None:
    attach(two, 2, server("b"), held=(status(SECOND, "READY"),))
    assert (version(two), routes(two)) == ("READY", [UID, SECOND])


def test_a_replica_that_fails_changes_nothing_for_the_others(two: Any) -> None:
    say(two, 2, SECOND, "FAILED")
    assert (word(two, UID), word(two, SECOND), version(two)) == ("READY", "FAILED", "DEGRADED")
    assert routes(two) == [UID]
    assert b"NUMBERS_MISMATCH" in two.world.deployment(UID).error
    say(two, 3, UID, "FAILED")
    assert version(two) == "FAILED"


def test_the_place_of_one_that_failed_is_free_for_one_that_waits(desk: Any) -> None:
    attach(desk, 0, server("a"))
    desk.do(samples.deployment(0, replicas=2))
    say(desk, 1, UID, "FAILED")
    assert (word(desk, UID), places(desk)[2]) == ("FAILED", ("a", ()))


def test_scaling_up_places_more_and_down_drains_the_newest(two: Any) -> None:
    attach(two, 2, server("c"))
    two.do(samples.scale(2, 3))
    assert (places(two)[3], version(two)) == (("c", ()), "DEGRADED")
    say(two, 3, THIRD, "READY")
    assert version(two) == "READY"

    two.do(samples.scale(4, 1))

    assert [word(two, uid) for uid in (UID, SECOND, THIRD)] == ["READY", "DRAINING", "DRAINING"]
    assert (version(two), routes(two)) == ("READY", [UID])
    view = desired_for(two.world, "services/g")
    assert (view.draining, sorted(view.draining_replicas)) == ((), [SECOND, THIRD])
    assert [held.uid for held in desired_for(two.world, "services/b").deployments] == [SECOND]
    two.do(samples.traffic(5, drained_replicas=[SECOND]))
    assert [word(two, uid) for uid in (UID, SECOND, THIRD)] == ["READY", "STOPPING", "DRAINING"]
    assert desired_for(two.world, "services/b").deployments == ()
    say(two, 6, SECOND, "DELETED")
    assert word(two, SECOND) == "DELETED"

    two.do(samples.scale(7, 2))
    assert set(places(two)) == {1, 3, 4}, "no number is given twice"
    assert events(two).count("scaled") == 3


def test_the_one_that_cannot_serve_is_taken_away_first(two: Any) -> None:
    say(two, 2, UID, "FAILED")
    two.do(samples.scale(3, 1))
    assert (word(two, UID), word(two, SECOND), version(two)) == ("DELETED", "READY", "READY")
    assert routes(two) == [SECOND]


def test_a_repeated_scaling_is_one_and_a_wrong_one_is_refused(two: Any) -> None:
    two.do(samples.scale(2, 1, request_id="r"))
    two.do(samples.scale(3, 2))
    two.do(samples.scale(4, 1, request_id="r"))
    assert two.world.deployment(UID).replicas == 2
    assert two.refused(samples.scale(5, 2, "nobody")).reason is Reason.DEPLOYMENT_NOT_FOUND
    two.do(DeploymentDeleteRequested(at=samples.moment(6), request=None, name=NAME))
    assert two.refused(samples.scale(7, 2)).reason is Reason.STATE_CONFLICT


def test_delete_ends_with_the_last_replica(two: Any) -> None:
    two.do(DeploymentDeleteRequested(at=samples.moment(2), request=None, name=NAME))
    assert version(two) == "DRAINING"
    assert desired_for(two.world, "services/g").draining == (UID,)
    two.do(samples.traffic(3, drained=[UID]))
    assert version(two) == "STOPPING"
    say(two, 4, UID, "DELETED")
    assert version(two) == "STOPPING"
    say(two, 5, SECOND, "DELETED")
    assert version(two) == "DELETED"
    assert two.durable.rows[("traffic", UID, 0)].is_over


def test_a_restart_keeps_every_replica_where_it_is(two: Any) -> None:
    two.restart(5)
    attach(two, 6, server("a"), held=(status(UID, "READY"),))
    attach(two, 6, server("b"), held=(status(SECOND, "READY"),))
    assert (version(two), routes(two)) == ("READY", [UID, SECOND])


def test_a_candidate_is_rolled_out_when_all_of_its_replicas_are_loaded(two: Any) -> None:
    two.do(samples.roll_out(2, steps=(40,)))
    new, newer = "uid-of-better", "uid-of-better-2"
    say(two, 3, new, "READY")
    assert routes(two) == [UID, SECOND], "one of two is loaded"
    say(two, 4, newer, "READY")
    view = desired_for(two.world, "services/g")
    assert sorted(route.uid for route in view.routes) == sorted([UID, SECOND, new, newer])
    assert view.shares == {UID: 60, new: 40}
    say(two, 5, newer, "STARTING")
    assert desired_for(two.world, "services/g").shares == {UID: 60, new: 40}, "one of two answers"
    two.do(samples.scale(6, 1))
    assert two.world.deployment(UID).replicas == two.world.deployment(new).replicas == 1


def test_a_candidate_that_is_refused_on_one_engine_is_rolled_back(two: Any) -> None:
    two.do(samples.roll_out(2))
    say(two, 3, "uid-of-better", "READY")
    say(two, 4, "uid-of-better-2", "FAILED")
    traffic = two.world.traffic(UID)
    assert not traffic.is_rolling
    assert "could not be served" in traffic.reason
    assert routes(two) == [UID, SECOND]
