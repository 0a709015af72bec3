"""A draining service keeps what it has; a lost one can be forgotten."""

from __future__ import annotations

from typing import Any

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import ServiceRemoveRequested
from tunefleet_core.testing import samples


def _remove(now: float, name: str = "services/a") -> ServiceRemoveRequested:
    return ServiceRemoveRequested(at=samples.moment(now), request=None, name=name)


def test_a_draining_trainer_ends_its_work_and_gets_no_more_even_after_restarts(running: Any) -> None:
    assert running.do(samples.drain(1)).is_draining
    running.do(samples.submit(1, "next"))
    output = running.commit(2)
    running.end(3, AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, output=output.digest)
    assert running.job().state == JobState.JOB_STATE_SUCCEEDED
    assert running.job("next").state == JobState.JOB_STATE_PENDING
    running.do(samples.attached(4))
    running.restart(5)
    running.do(samples.attached(6))
    assert running.job("next").state == JobState.JOB_STATE_PENDING

    running.do(samples.drain(7, is_draining=False))

    assert running.job("next").state == JobState.JOB_STATE_PREPARING, "in the same decision"


def test_work_goes_to_another_service_meanwhile(desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.attached(0, samples.service("services/b")))
    desk.do(samples.drain(1))
    desk.do(samples.submit(2))
    assert desk.live().service == "services/b"


def test_a_draining_server_gets_no_deployment(desk: Any) -> None:
    engine = samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])
    server = samples.service(kind=ServiceKind.SERVICE_KIND_SERVER, backends=[engine])
    desk.do(samples.attached(0, server))
    desk.do(samples.deployment(1, "before"))
    desk.do(samples.drain(2))
    desk.do(samples.deployment(3, "during"))
    states = {row.uid: row.state for row in desk.world.replicas_of_service("services/a")}
    assert states == {"uid-of-before": DeploymentState.DEPLOYMENT_STATE_STARTING}
    desk.do(samples.drain(4, is_draining=False))
    assert len(desk.world.replicas_of_service("services/a")) == 2


def test_only_a_lost_service_is_forgotten(running: Any) -> None:
    assert running.refused(samples.drain(1, "services/nobody")).reason is Reason.SERVICE_NOT_FOUND
    assert running.refused(_remove(1, "services/nobody")).reason is Reason.SERVICE_NOT_FOUND
    refused = running.refused(_remove(1))
    assert (refused.reason, refused.metadata["state"]) == (Reason.STATE_CONFLICT, "ATTACHED")
    running.tick(5)
    assert running.refused(_remove(6)).metadata["state"] == "SUSPECT"
    running.tick(15)
    running.do(_remove(16))
    assert running.world.services() == []
    assert ("service", "services/a", 0) not in running.durable.rows
    running.do(samples.attached(17))
    running.tick(17)
    assert running.job().state == JobState.JOB_STATE_PREPARING, "it is welcome again"
