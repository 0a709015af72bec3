"""A new version gets more and more of the traffic, and all or nothing of it in the end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.deployment.v1.rollout_pb2 import EvaluationState, RolloutPolicy, RolloutState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus, ServiceKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import (
    DeploymentDeleteRequested,
    DeploymentReported,
    RolloutRequested,
    desired_for,
    events_of,
    services_touched,
    settle_policy,
)
from tunefleet_core.testing import samples

NAME = "projects/default/deployments/tuned"
OLD, NEW = "uid-of-tuned", "uid-of-better"
GATEWAY = "services/g"
LOADED = "The candidate is loaded and checked."


def report(now: float, uid: str, state: str, epoch: int = 1) -> DeploymentReported:
    value = DeploymentState.Value(f"DEPLOYMENT_STATE_{state}")
    status = DeploymentStatus(deployment_uid=uid, state=value, engine_address="http://127.0.0.1:1")
    if state == "FAILED":
        status.error.CopyFrom(samples.failure(Reason.NUMBERS_MISMATCH, "It is not what was trained."))
    return DeploymentReported(at=samples.moment(now), service="services/s", epoch=epoch, status=status)


def shares(desk: Any) -> dict[str, int]:
    return dict(desired_for(desk.world, GATEWAY).shares)


def held(desk: Any) -> list[str]:
    return [row.uid for row in desired_for(desk.world, "services/s").deployments]


def rollout(desk: Any) -> tuple[str, int]:
    row = desk.durable.rows[("traffic", OLD, 0)]
    return RolloutState.Name(row.state).removeprefix("ROLLOUT_STATE_"), row.step


def state(desk: Any, uid: str) -> str:
    row = desk.durable.rows[("deployment", uid, 0)]
    return DeploymentState.Name(row.state).removeprefix("DEPLOYMENT_STATE_")


def payloads(desk: Any) -> list[str]:
    row = desk.durable.rows[("traffic", OLD, 0)]
    return [str(event.WhichOneof("payload")) for event in events_of(row)]


def gateway() -> Any:
    return samples.service(GATEWAY, kind=ServiceKind.SERVICE_KIND_GATEWAY, backends=[])


def begin(desk: Any) -> None:
    serves = samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])
    kind = ServiceKind.SERVICE_KIND_SERVER
    desk.do(samples.attached(0, gateway()))
    desk.do(samples.attached(0, samples.service("services/s", kind=kind, backends=[serves])))
    desk.do(samples.deployment(0))
    desk.do(report(0, OLD, "READY"))


@pytest.fixture
def served(desk: Any) -> Any:
    """A deployment that takes traffic, on a server that keeps being heard."""
    begin(desk)
    return desk


@pytest.fixture
def baking(served: Any) -> Any:
    """A roll-out at its first step, 10 percent."""
    served.do(samples.roll_out(1))
    served.do(report(2, NEW, "READY"))
    return served


def alive(desk: Any, now: float) -> None:
    desk.do(samples.heartbeat(now, "services/s"))
    desk.do(samples.heartbeat(now, GATEWAY))
    desk.tick(now)


def test_the_candidate_is_loaded_beside_the_other_on_its_engine_before_it_gets_traffic(served: Any) -> None:
    served.do(samples.roll_out(1))
    assert rollout(served) == ("LOADING", 0)
    assert held(served) == [OLD, NEW], "both live on one server"
    assert served.world.replica(NEW).device_ids == served.world.replica(OLD).device_ids
    assert shares(served) == {OLD: 100}
    served.do(report(2, NEW, "STARTING"))
    assert shares(served) == {OLD: 100}
    decision = served.decide(report(3, NEW, "READY"))
    assert GATEWAY in services_touched(served.world, decision.changes)
    served.do(report(3, NEW, "READY"))
    assert (rollout(served), shares(served)) == (("BAKING", 1), {OLD: 90, NEW: 10})


def test_steps_follow_when_their_bake_time_is_over_and_enough_was_answered(baking: Any) -> None:
    baking.do(samples.traffic(3, NEW, 20))
    alive(baking, 61.9)
    assert rollout(baking) == ("BAKING", 1), "its time is not over"
    alive(baking, 62)
    assert (rollout(baking), shares(baking)) == (("BAKING", 2), {OLD: 50, NEW: 50})
    alive(baking, 130)
    assert rollout(baking) == ("BAKING", 2), "counts begin anew with a step, and nothing was answered in it"
    baking.do(samples.traffic(131, NEW, 19))
    assert rollout(baking) == ("BAKING", 2)
    baking.do(samples.traffic(132, NEW, 1))
    assert (rollout(baking), shares(baking)) == (("BAKING", 3), {NEW: 100})
    assert held(baking) == [OLD, NEW], "the old one is there until the last step has baked"
    baking.do(samples.traffic(140, NEW, 50))
    alive(baking, 192)
    assert rollout(baking) == ("SUCCEEDED", 3)
    assert (shares(baking), state(baking, OLD)) == ({NEW: 100}, "DRAINING")
    assert baking.world.deployment_by_name(NAME).uid == NEW
    assert payloads(baking)[2:] == [
        "rollout_started", "state_changed", "state_changed", "rollout_step", "rollout_step",
        "rollout_step", "rollout_ended", "state_changed",
    ]  # fmt: skip
    row = baking.durable.rows[("traffic", OLD, 0)]
    assert [event.sequence for event in events_of(row)] == list(range(1, row.last_sequence + 1))


def test_a_version_is_unloaded_only_when_every_gateway_has_nothing_in_flight_with_it(baking: Any) -> None:
    other = samples.service("services/h", kind=ServiceKind.SERVICE_KIND_GATEWAY, backends=[])
    baking.do(samples.attached(3, other))
    baking.do(samples.roll_back(4))
    assert shares(baking) == {OLD: 100}, "instant"
    assert desired_for(baking.world, GATEWAY).draining == (NEW,)
    assert held(baking) == [OLD, NEW]
    baking.do(samples.traffic(5, drained=[NEW]))
    assert state(baking, NEW) == "DRAINING", "the other gateway has not said so"
    baking.do(samples.traffic(6, drained=[NEW], gateway="services/h"))
    assert (state(baking, NEW), held(baking)) == ("STOPPING", [OLD])
    baking.do(report(7, NEW, "DELETED"))
    assert (state(baking, NEW), state(baking, OLD)) == ("DELETED", "READY")


def test_a_drain_ends_at_its_limit(served: Any) -> None:
    policy = RolloutPolicy()
    policy.drain_limit.seconds = 30
    served.do(samples.roll_out(1, drain_limit=policy.drain_limit))
    served.do(report(2, NEW, "READY"))
    served.do(samples.roll_back(4))
    alive(served, 33)
    assert state(served, NEW) == "DRAINING"
    alive(served, 34)
    assert state(served, NEW) == "STOPPING"


def test_a_drain_does_not_wait_for_a_gateway_that_is_lost(baking: Any) -> None:
    baking.do(samples.roll_back(4))
    baking.do(samples.heartbeat(14, "services/s"))
    baking.tick(16)
    assert state(baking, NEW) == "STOPPING"


@pytest.mark.parametrize(("requests", "errors", "ends"), [(19, 19, False), (20, 1, False), (20, 2, True)])
def test_too_many_errors_roll_back_once_enough_was_answered(
    baking: Any, requests: int, errors: int, ends: bool
) -> None:
    baking.do(samples.traffic(3, NEW, requests, errors=errors))
    assert rollout(baking)[0] == ("ROLLED_BACK" if ends else "BAKING")
    assert shares(baking) == ({OLD: 100} if ends else {OLD: 90, NEW: 10})
    if ends:
        ended = next(
            event.rollout_ended
            for event in events_of(baking.durable.rows[("traffic", OLD, 0)])
            if event.HasField("rollout_ended")
        )
        assert ended.reason == "2 of 20 requests failed (10.0%); the limit is 5.0%."
        assert ended.candidate.errors == 2


@pytest.mark.parametrize(("seconds", "ends"), [(0.19, False), (0.21, True)])
def test_a_slow_candidate_is_compared_with_the_other_version(served: Any, seconds: float, ends: bool) -> None:
    served.do(samples.roll_out(1, max_latency_ratio=2.0))
    served.do(report(2, NEW, "READY"))
    served.do(samples.traffic(3, NEW, 20, seconds_each=seconds))
    assert rollout(served)[0] == "BAKING", "the other has answered nothing yet"
    served.do(samples.traffic(3, OLD, 20, seconds_each=0.1))
    assert rollout(served)[0] == ("ROLLED_BACK" if ends else "BAKING")


def test_a_candidate_that_cannot_be_loaded_leaves_the_other_with_everything(served: Any) -> None:
    served.do(samples.roll_out(1))
    served.do(report(2, NEW, "FAILED"))
    assert (rollout(served), shares(served)) == (("ROLLED_BACK", 0), {OLD: 100})
    row = served.durable.rows[("traffic", OLD, 0)]
    assert row.reason == "The candidate could not be served: It is not what was trained."
    assert held(served) == [OLD]


def test_without_a_bake_time_steps_are_taken_by_hand(served: Any) -> None:
    served.do(samples.roll_out(1, bake_seconds=None))
    assert served.refused(samples.promote(1)).reason is Reason.STATE_CONFLICT
    served.do(report(2, NEW, "READY"))
    served.do(samples.traffic(3, NEW, 100))
    alive(served, 10_000)
    assert rollout(served) == ("BAKING", 1)
    served.do(samples.promote(10_001))
    assert rollout(served) == ("BAKING", 2)
    served.do(samples.promote(10_002, to_last_step=True))
    assert (rollout(served), shares(served)) == (("BAKING", 3), {NEW: 100})
    served.do(samples.promote(10_003))
    assert rollout(served) == ("SUCCEEDED", 3)
    assert served.refused(samples.promote(10_004)).reason is Reason.STATE_CONFLICT
    assert served.refused(samples.roll_back(10_004)).reason is Reason.STATE_CONFLICT


def test_a_promotion_goes_straight_to_the_last_step(baking: Any) -> None:
    baking.do(samples.promote(3, to_last_step=True))
    assert (rollout(baking), shares(baking)) == (("BAKING", 3), {NEW: 100})
    baking.do(samples.roll_back(4))
    assert shares(baking) == {OLD: 100}, "the old version was still there"


def test_a_restart_goes_on_with_what_is_left_of_a_step(baking: Any) -> None:
    baking.do(samples.traffic(3, NEW, 20))
    baking.restart(42)
    epoch = 2
    serves = samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])
    kind = ServiceKind.SERVICE_KIND_SERVER
    both = [report(0, uid, "READY").status for uid in (OLD, NEW)]
    again = samples.service("services/s", kind=kind, backends=[serves])
    baking.do(samples.attached(43, gateway()))
    baking.do(samples.attached(43, again, deployments=both))
    assert (rollout(baking), shares(baking)) == (("BAKING", 1), {OLD: 90, NEW: 10})
    for now in (50, 61):
        baking.do(samples.heartbeat(now, "services/s", epoch))
        baking.do(samples.heartbeat(now, GATEWAY, epoch))
        baking.tick(now)
    assert rollout(baking) == ("BAKING", 1)
    baking.tick(62)
    assert rollout(baking) == ("BAKING", 2), "counted and timed from before the restart"


def test_while_the_candidate_cannot_answer_its_share_is_the_others_and_the_step_begins_anew(
    baking: Any,
) -> None:
    baking.do(samples.traffic(3, NEW, 20))
    baking.do(report(30, NEW, "STARTING"))
    assert (rollout(baking), shares(baking)) == (("BAKING", 1), {OLD: 100})
    assert baking.refused(samples.promote(31)).reason is Reason.STATE_CONFLICT
    alive(baking, 70)
    assert rollout(baking) == ("BAKING", 1)
    baking.do(report(71, NEW, "READY"))
    assert (rollout(baking), shares(baking)) == (("BAKING", 1), {OLD: 90, NEW: 10})
    baking.do(samples.traffic(72, NEW, 20))
    alive(baking, 130)
    assert rollout(baking) == ("BAKING", 1)
    alive(baking, 131)
    assert rollout(baking) == ("BAKING", 2)


def test_while_the_old_version_cannot_answer_the_candidate_has_everything(baking: Any) -> None:
    baking.do(report(3, OLD, "STARTING"))
    assert shares(baking) == {NEW: 100}
    baking.do(report(4, OLD, "READY"))
    assert shares(baking) == {OLD: 90, NEW: 10}


def test_a_deployment_has_one_roll_out_at_a_time_of_something_else_and_only_when_ready(served: Any) -> None:
    row = served.world.deployment(OLD)
    same = RolloutRequested(
        at=samples.moment(1),
        request=None,
        name=NAME,
        uid="uid-of-same",
        spec=row.spec,
        engine=row.engine,
        base_facts=row.base_facts,
        adapter_manifest_digest=row.adapter_manifest_digest,
        engine_model=row.engine_model,
        policy=settle_policy(RolloutPolicy()).SerializeToString(),
    )
    assert served.refused(same).reason is Reason.FIELD_INVALID
    served.do(samples.roll_out(1, request_id="r"))
    served.do(samples.roll_out(2, version="renamed", request_id="r"))
    assert served.refused(samples.roll_out(3, version="third")).reason is Reason.STATE_CONFLICT
    served.do(samples.roll_back(4))
    served.do(report(5, OLD, "STARTING"))
    assert served.refused(samples.roll_out(6, version="third")).reason is Reason.STATE_CONFLICT
    missing = samples.roll_out(7, "nothing")
    assert served.refused(missing).reason is Reason.DEPLOYMENT_NOT_FOUND


def test_a_second_roll_out_follows_the_first_and_numbers_go_on(baking: Any) -> None:
    for now in (3, 4, 5):
        baking.do(samples.promote(now))
    baking.do(samples.traffic(6, drained=[OLD]))
    baking.do(report(7, OLD, "DELETED"))
    baking.do(samples.roll_out(8, version="best"))
    baking.do(report(9, "uid-of-best", "READY"))
    assert shares(baking) == {NEW: 90, "uid-of-best": 10}
    assert baking.world.deployment("uid-of-best").number == 3
    baking.do(samples.roll_back(10))
    assert shares(baking) == {NEW: 100}


def test_delete_takes_every_version_down_and_frees_the_name_when_the_last_is_gone(baking: Any) -> None:
    baking.do(DeploymentDeleteRequested(at=samples.moment(3), request=None, name=NAME))
    assert rollout(baking)[0] == "ROLLED_BACK"
    assert shares(baking) == {}
    baking.do(samples.traffic(4, drained=[OLD, NEW]))
    baking.do(report(5, OLD, "DELETED"))
    assert baking.refused(samples.deployment(6, uid="u2")).reason is Reason.DEPLOYMENT_EXISTS
    baking.do(report(7, NEW, "DELETED"))
    assert baking.durable.rows[("traffic", OLD, 0)].is_over
    baking.do(samples.deployment(8, uid="u2"))


# --- a job that has to pass ------------------------------------------------------------


JOB = "projects/default/jobs/job"


@pytest.fixture
def judged(served: Any) -> Any:
    """A roll-out at its first step that waits for a job at work."""
    served.do(samples.attached(0))
    served.do(samples.submit(0))
    served.run(0)
    served.do(samples.roll_out(1, evaluate_job=JOB))
    served.do(report(2, NEW, "READY"))
    served.do(samples.traffic(3, NEW, 20))
    return served


def test_the_first_step_lasts_until_the_job_has_succeeded(judged: Any) -> None:
    for now in (10, 24, 38, 52, 66):
        judged.do(samples.heartbeat(now))
        alive(judged, now)
    assert rollout(judged) == ("BAKING", 1)
    judged.commit(67)
    (output,) = (key[1] for key in judged.durable.rows if key[0] == "manifest")
    judged.end(68, AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, output=output)
    assert rollout(judged) == ("BAKING", 2)
    row = judged.durable.rows[("traffic", OLD, 0)]
    assert row.evaluation == EvaluationState.EVALUATION_STATE_PASSED
    assert "evaluation_ended" in payloads(judged)


def test_a_job_that_fails_or_is_cancelled_rolls_back(judged: Any) -> None:
    judged.end(4, AttemptOutcome.ATTEMPT_OUTCOME_FAILED, reason=Reason.DATA_INVALID)
    assert (rollout(judged)[0], shares(judged)) == ("ROLLED_BACK", {OLD: 100})
    row = judged.durable.rows[("traffic", OLD, 0)]
    assert row.reason == "Job 'job', which had to pass, failed."
    refused = judged.refused(samples.roll_out(5, version="third", evaluate_job=JOB))
    assert refused.reason is Reason.STATE_CONFLICT, "it has failed already, and is no longer in memory"
    missing = samples.roll_out(6, version="third", evaluate_job=f"{JOB}-x")
    assert judged.refused(missing).reason is Reason.JOB_NOT_FOUND


# --- what holds whatever happens -------------------------------------------------------


moves = st.lists(
    st.tuples(
        st.sampled_from(
            ["ready", "starting", "failed", "old starting", "old ready", "answers", "errors", "wait",
             "promote", "last", "roll back", "roll out", "drained", "deleted", "restart"]
        ),
        st.integers(1, 80),
    ),
    max_size=30,
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(history=moves)
def test_shares_are_always_the_whole_and_an_end_is_always_one_version(new_desk: Any, history: Any) -> None:
    desk = new_desk()
    begin(desk)
    now, serial, newest = 1.0, 0, OLD
    current = OLD
    for what, number in history:
        now += number
        desk.do(samples.attached(now, gateway()))
        epoch = desk.epoch(GATEWAY)
        replicas = [item for row in desk.world.versions_of(NAME) for item in desk.world.replicas_of(row.uid)]
        live = [report(0, row.uid, _word(row)).status for row in replicas if row.is_held]
        serves = samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])
        kind = ServiceKind.SERVICE_KIND_SERVER
        server = samples.service("services/s", kind=kind, backends=[serves])
        if what == "restart":
            desk.restart(now)
            desk.do(samples.attached(now, gateway()))
            epoch = desk.epoch(GATEWAY)
        desk.do(samples.attached(now, server, deployments=live))
        mine = desk.epoch("services/s")
        if what == "roll out":
            serial += 1
            newest = f"uid-of-v{serial}"
            attempt(desk, samples.roll_out(now, version=f"v{serial}"))
        elif what in ("ready", "starting", "failed", "deleted"):
            attempt(desk, report(now, newest, what.upper(), mine))
        elif what.startswith("old "):
            attempt(desk, report(now, current, what[4:].upper(), mine))
        elif what in ("answers", "errors"):
            errors = number if what == "errors" else 0
            attempt(desk, samples.traffic(now, newest, number, errors=errors, epoch=epoch))
        elif what == "drained":
            attempt(desk, samples.traffic(now, drained=[current, newest], epoch=epoch))
        elif what == "wait":
            desk.tick(now)
        elif what in ("promote", "last"):
            attempt(desk, samples.promote(now, to_last_step=what == "last"))
        elif what == "roll back":
            attempt(desk, samples.roll_back(now))
        traffic = desk.world.traffic(OLD)
        before, current = current, desk.world.deployment_by_name(NAME).uid
        seen = shares(desk)
        if desk.world.deployment(current).state == DeploymentState.DEPLOYMENT_STATE_READY or seen:
            assert sum(seen.values()) == 100
        assert set(seen) <= {traffic.current, traffic.candidate, current}
        if before != current:
            assert (traffic.state, traffic.candidate) == (RolloutState.ROLLOUT_STATE_SUCCEEDED, current)
        if traffic.state == RolloutState.ROLLOUT_STATE_ROLLED_BACK:
            assert current == traffic.current
            assert set(seen) <= {current}
        assert sum(row.is_current for row in desk.world.versions_of(NAME)) == 1


def attempt(desk: Any, event: Any) -> None:
    """Do something that may be refused for the state that things are in."""
    error = desk.decide(event).error
    if error is None:
        desk.do(event)
    else:
        desk.world.settle()
        assert error.reason in (Reason.STATE_CONFLICT, Reason.FENCED)


def _word(row: Any) -> str:
    word = DeploymentState.Name(row.state).removeprefix("DEPLOYMENT_STATE_")
    return "READY" if word == "DRAINING" else word


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (RolloutPolicy(steps=[50, 50]), "policy.steps"),
        (RolloutPolicy(steps=[0, 50]), "policy.steps"),
        (RolloutPolicy(steps=[101]), "policy.steps"),
        (RolloutPolicy(steps=range(1, 30)), "policy.steps"),
        (RolloutPolicy(max_error_rate=1.1), "policy.max_error_rate"),
        (RolloutPolicy(max_error_rate=float("nan")), "policy.max_error_rate"),
        (RolloutPolicy(max_latency_ratio=0.5), "policy.max_latency_ratio"),
        (RolloutPolicy(min_requests=-1), "policy.min_requests"),
        (RolloutPolicy(min_scores={"f1": 0.5}), "policy.min_scores"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(policy: RolloutPolicy, field: str) -> None:
    with pytest.raises(TunefleetError) as refused:
        settle_policy(policy)
    assert refused.value.violations[0].field == field


def test_what_a_policy_leaves_out_is_decided() -> None:
    policy = settle_policy(RolloutPolicy())
    assert list(policy.steps) == [5, 25, 100]
    assert (policy.max_error_rate, policy.min_requests, policy.drain_limit.seconds) == (0.05, 20, 300)
    assert not policy.HasField("bake")
