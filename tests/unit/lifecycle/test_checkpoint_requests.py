"""A checkpoint on request: a number of the attempt that rises, told to its service until the attempt ends."""

from __future__ import annotations

from typing import Any

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.fleet.v1.fleet_pb2 import AssignmentGoal
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import desired_for, services_touched
from tunefleet_core.testing import samples


def _asked(desk: Any) -> tuple[int, int]:
    (assignment,) = desired_for(desk.world, "services/a").assignments
    return assignment.attempt.checkpoint_requests, assignment.goal


def test_a_request_is_in_the_desired_set_and_outlives_the_coordinator(running: Any) -> None:
    job = running.do(samples.checkpoint(2, request_id="c"))
    assert job.state == JobState.JOB_STATE_RUNNING
    assert _asked(running) == (1, AssignmentGoal.ASSIGNMENT_GOAL_RUN)
    running.restart(3)
    assert _asked(running) == (1, AssignmentGoal.ASSIGNMENT_GOAL_RUN)


@pytest.mark.parametrize("again", ["c", "d"])
def test_the_service_is_told_of_every_request_and_of_no_request_twice(running: Any, again: str) -> None:
    running.do(samples.checkpoint(2, request_id="c"))
    is_new = again != "c"
    decision = running.decide(samples.checkpoint(3, request_id=again))
    assert services_touched(running.world, decision.changes) == ({"services/a"} if is_new else set())
    running.do(samples.checkpoint(3, request_id=again))
    assert _asked(running)[0] == 1 + is_new


def test_a_request_ends_with_its_attempt(running: Any) -> None:
    running.do(samples.checkpoint(2))
    running.commit(3, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=7)
    running.end(4, AttemptOutcome.ATTEMPT_OUTCOME_FAILED, reason=Reason.WORKER_LOST)
    running.do(samples.retry(5))
    assert running.live().attempt == 2
    assert _asked(running)[0] == 0


def test_a_job_that_waits_has_nothing_to_save(desk: Any) -> None:
    desk.do(samples.submit(0))
    assert desk.refused(samples.checkpoint(5)).reason is Reason.STATE_CONFLICT


@pytest.mark.parametrize("state", ["pausing", "paused", "ended"])
def test_a_job_that_leaves_its_device_has_nothing_to_save(running: Any, state: str) -> None:
    if state == "ended":
        running.end(3, AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED)
    else:
        running.do(samples.pause(2))
    if state == "paused":
        running.end(3, AttemptOutcome.ATTEMPT_OUTCOME_PAUSED)
    assert running.refused(samples.checkpoint(5)).reason is Reason.STATE_CONFLICT


def test_a_backend_that_saves_at_its_own_times_is_not_asked(desk: Any) -> None:
    able = (Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_CHECKPOINT_RESUME)
    desk.do(samples.attached(0, samples.service(backends=(samples.backend(capabilities=able),))))
    desk.do(samples.submit(1))
    refused = desk.refused(samples.checkpoint(2))
    assert refused.reason is Reason.CAPABILITY_UNSUPPORTED
    assert refused.metadata["capability"] == "CHECKPOINT_ON_REQUEST"
