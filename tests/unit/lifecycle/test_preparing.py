"""A replica whose server fetches what it serves: how far it is, and that it is there all the while."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tunefleet.job.v1.event_pb2 import Download
from tunefleet_core.lifecycle import DeploymentDeleteRequested, DeploymentReported, Policy, desired_for
from tunefleet_core.testing import samples

sys.path.append(str(Path(__file__).parent))
from replica_desk import UID, begin, events, routes, say, status, version, word

PATIENT = Policy(lease_term_seconds=10_000)


@pytest.fixture
def one(desk: Any) -> Any:
    """A gateway, a server `a`, and one replica that starts there."""
    begin(desk, PATIENT)
    return desk


def fetch(desk: Any, now: float, done: int) -> None:
    """Have its server say how far it is."""
    said = status(UID, "PREPARING")
    said.download.CopyFrom(Download(what="org/large", done_bytes=done, total_bytes=9))
    epoch = desk.epoch("services/a")
    desk.do(DeploymentReported(at=samples.moment(now), service="services/a", epoch=epoch, status=said))


def test_how_far_it_is_is_kept_and_history_tells_of_states_alone(one: Any) -> None:
    for now, done in enumerate((1, 5, 5, 9), start=1):
        fetch(one, now, done)
        assert Download.FromString(one.world.replica(UID).download).done_bytes == done
        assert (word(one, UID), version(one), routes(one)) == ("PREPARING", "PREPARING", [])
    before = one.world.replica(UID).version
    fetch(one, 6, 9)
    assert one.world.replica(UID).version == before, "nothing new was said"

    say(one, 7, UID, "STARTING")
    assert one.world.replica(UID).download == b""
    say(one, 8, UID, "READY")
    assert events(one)[-4:] == ["all STARTING", "all PREPARING", "all STARTING", "all READY"]


def test_it_stays_with_its_server_and_is_taken_down_like_one_that_starts(one: Any) -> None:
    fetch(one, 1, 1)
    assert [held.uid for held in desired_for(one.world, "services/a").deployments] == [UID]
    name = one.world.deployment(UID).name
    one.do(DeploymentDeleteRequested(at=samples.moment(2), request=None, name=name))
    assert (word(one, UID), version(one)) == ("STOPPING", "STOPPING")
    say(one, 3, UID, "DELETED", service="services/a")
    assert word(one, UID) == "DELETED"


def test_a_server_that_is_lost_takes_what_it_had_fetched_with_it(one: Any) -> None:
    fetch(one, 1, 4)
    one.tick(20_000)
    row = one.world.replica(UID)
    assert (word(one, UID), row.service, row.download) == ("PENDING", "", b"")
