"""Sessions, leases, silence, and the coordinator's own restart."""

from __future__ import annotations

from typing import Any

from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import Booted, ServiceDetached, desired_for, services_touched
from tunefleet_core.testing import samples


def _state(desk: Any, name: str = "services/a") -> str:
    service = desk.world.service(name)
    return ServiceState.Name(service.state).removeprefix("SERVICE_STATE_")


def test_silence_makes_a_service_suspect_then_lost(desk: Any) -> None:
    desk.do(samples.attached(0))
    states = []
    for now in (4.9, 5, 14.9, 15):
        desk.tick(now)
        states.append(_state(desk))
    assert states == ["ATTACHED", "SUSPECT", "SUSPECT", "LOST"]
    desk.do(samples.heartbeat(16))
    assert _state(desk) == "ATTACHED"


def test_heartbeats_keep_a_lease(running: Any) -> None:
    for now in range(0, 100, 4):
        running.do(samples.heartbeat(now))
        running.tick(now)
    assert running.job().state == JobState.JOB_STATE_RUNNING
    running.tick(96 + 14.9)
    assert running.job().state == JobState.JOB_STATE_RUNNING
    running.tick(96 + 15)
    assert running.job().state == JobState.JOB_STATE_WAITING_RETRY


def test_a_lost_job_goes_to_another_free_service_at_once(running: Any) -> None:
    running.do(samples.attached(14, samples.service("services/b")))
    running.tick(15)
    job = running.job()
    assert (job.state, job.service, job.failures) == (JobState.JOB_STATE_PREPARING, "services/b", 1)
    ended = [event.attempt_ended for event in running.events() if event.HasField("attempt_ended")]
    assert [item.outcome for item in ended] == [AttemptOutcome.ATTEMPT_OUTCOME_LOST]


def test_a_lost_job_takes_another_service_as_soon_as_one_comes(running: Any) -> None:
    running.tick(15)
    assert running.job().state == JobState.JOB_STATE_WAITING_RETRY
    running.do(samples.attached(15.1, samples.service("services/b")))
    assert (running.job().state, running.job().service) == (JobState.JOB_STATE_PREPARING, "services/b")


def test_a_lost_job_returns_to_its_service_only_after_the_wait(running: Any) -> None:
    running.tick(15)
    running.do(samples.attached(15.1, samples.service("services/a")))
    assert running.job().state == JobState.JOB_STATE_WAITING_RETRY
    running.tick(15.5)
    assert (running.job().state, running.job().attempt) == (JobState.JOB_STATE_PREPARING, 2)


def test_a_poison_job_that_takes_every_service_down_ends(running: Any) -> None:
    now = 0.0
    for attempt in (1, 2, 3):
        assert running.live().attempt == attempt
        now += 15
        running.tick(now)
        if attempt < 3:
            running.do(samples.attached(now, samples.service("services/a")))
            now += 10
            running.do(samples.heartbeat(now, epoch=attempt + 1))
            running.tick(now)
    assert running.job().state == JobState.JOB_STATE_FAILED
    assert b"WORKER_LOST" in running.job().error


def test_a_held_attempt_with_the_right_fence_is_adopted(running: Any) -> None:
    attempt = running.live()
    running.do(samples.events(1, attempt, 1, 2))

    opened = running.do(samples.attached(10, attempts=[samples.attempt_status(attempt)]))

    assert opened.epoch == 2
    adopted = running.live()
    assert (adopted.attempt, adopted.lease_expires) == (1, 25)
    (assignment,) = desired_for(running.world, "services/a").assignments
    assert assignment.attempt == adopted
    running.do(samples.events(11, adopted, 3))


def test_a_begun_attempt_that_its_service_lost_is_lost(running: Any) -> None:
    running.do(samples.attached(1))
    assert running.job().state == JobState.JOB_STATE_WAITING_RETRY
    assert desired_for(running.world, "services/a").assignments == ()


def test_an_attempt_that_never_began_is_begun_by_the_next_process(desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.submit(0))
    desk.do(samples.attached(5))
    (assignment,) = desired_for(desk.world, "services/a").assignments
    assert (assignment.attempt.attempt, assignment.attempt.lease_expires) == (1, 20)


def test_a_held_attempt_with_an_old_fence_is_not_desired(running: Any) -> None:
    old = running.live()
    running.do(samples.attached(14, samples.service("services/b")))
    running.tick(15)
    running.do(samples.attached(20, attempts=[samples.attempt_status(old)]))
    assert desired_for(running.world, "services/a").assignments == ()
    assert running.live().service == "services/b"


def test_an_attempt_that_ended_while_nobody_listened_is_taken_in_at_attach(running: Any) -> None:
    manifest = running.commit(1)
    success = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    status = samples.attempt_status(running.live(), outcome=success, output=manifest.digest)
    running.do(samples.attached(5, attempts=[status]))
    assert running.job().state == JobState.JOB_STATE_SUCCEEDED


def test_the_newest_session_wins(running: Any) -> None:
    attempt = running.live()
    running.do(samples.attached(1, attempts=[samples.attempt_status(attempt)]))
    status = samples.attempt_status(attempt)
    for old in (samples.heartbeat(2, epoch=1), samples.report(2, status, epoch=1)):
        refused = running.refused(old)
        assert refused.reason is Reason.SESSION_SUPERSEDED
        assert refused.metadata["newest"] == "2"
    running.do(ServiceDetached(at=samples.moment(2), service="services/a", epoch=1))
    assert _state(running) == "ATTACHED", "the end of an old stream says nothing about the new one"
    running.do(ServiceDetached(at=samples.moment(2), service="services/a", epoch=2))
    assert _state(running) == "SUSPECT"


def test_a_restart_gives_leases_a_fresh_term_and_ends_sessions(running: Any) -> None:
    attempt = running.live()
    running.restart(1000)
    assert running.live().lease_expires == 1015
    assert _state(running) == "SUSPECT"
    refused = running.refused(samples.heartbeat(1001))
    assert refused.reason is Reason.SESSION_SUPERSEDED, "nothing is known of it but its epoch"

    opened = running.do(samples.attached(1002, attempts=[samples.attempt_status(attempt)]))
    assert opened.epoch == 2
    running.do(samples.events(1003, running.live(), 1))
    assert running.job().state == JobState.JOB_STATE_RUNNING


def test_a_service_that_does_not_return_after_a_restart_is_lost(running: Any) -> None:
    running.restart(1000)
    running.tick(1014.9)
    assert running.job().state == JobState.JOB_STATE_RUNNING
    running.tick(1015)
    assert running.job().state == JobState.JOB_STATE_WAITING_RETRY
    assert _state(running) == "LOST"


def test_a_waiting_job_survives_a_restart(running: Any) -> None:
    running.end(1, AttemptOutcome.ATTEMPT_OUTCOME_FAILED, reason=Reason.INTERNAL)
    running.restart(1000)
    running.do(samples.attached(1000.1))
    running.tick(1000.5)
    assert (running.job().state, running.job().attempt) == (JobState.JOB_STATE_PREPARING, 2)


def test_a_sleep_of_the_coordinator_costs_nobody_a_lease(running: Any) -> None:
    running.do(Booted(at=samples.moment(5000)))
    running.tick(5000)
    assert running.job().state == JobState.JOB_STATE_RUNNING
    assert _state(running) == "ATTACHED"


def test_a_heartbeat_touches_nobody(running: Any) -> None:
    decision = running.decide(samples.heartbeat(1))
    assert services_touched(running.world, decision.changes) == frozenset()
    running.do(samples.heartbeat(1))
    cancel = running.decide(samples.cancel(2))
    assert services_touched(running.world, cancel.changes) == frozenset({"services/a"})
