"""Deciding changes nothing, undoing undoes everything, and a reload is the same world."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus, ServiceKind
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import (
    DeploymentDeleteRequested,
    DeploymentReported,
    EventsAppended,
    Input,
    Policy,
    RowChange,
    ServiceDetached,
    Tick,
    World,
    decide,
    footprint,
    is_durable,
    wanted_keys,
)
from tunefleet_core.lifecycle.deadlines import Deadlines
from tunefleet_core.testing import samples
from tunefleet_core.testing.simulation.durable import DurableRows, durable_part

JOBS = ("x", "y", "z")
TRAINERS = ("services/a", "services/b")

moves = st.tuples(
    st.sampled_from(
        ["submit", "cancel", "attach", "server", "detach", "beat", "run", "events", "checkpoint",
         "output", "succeed", "fail", "poison", "wait", "deploy", "ready", "delete", "scale"]
    ),
    st.sampled_from(JOBS),
    st.sampled_from(TRAINERS),
    st.integers(0, 3),
)  # fmt: skip


def _event(world: World, now: float, serial: int, move: tuple[str, str, str, int]) -> Input | None:
    what, job_id, name, number = move
    simple: dict[str, Any] = {
        "submit": lambda: samples.submit(now, job_id, request_id=job_id, priority=number),
        "cancel": lambda: samples.cancel(now, job_id),
        "attach": lambda: samples.attached(
            now, samples.service(name, host="shared" if number else name, devices={"g": "cuda"})
        ),
        "server": lambda: samples.attached(
            now,
            samples.service(
                "services/s",
                kind=ServiceKind.SERVICE_KIND_SERVER,
                host="shared",
                devices={"g": "cuda"},
                backends=[samples.backend("embedded", capabilities=[Capability.CAPABILITY_SERVE])],
            ),
        ),
        # The name of a deleted deployment may be taken again; a uid never is.
        "deploy": lambda: samples.deployment(now, job_id, uid=f"uid-{serial}-of-{job_id}"),
        "delete": lambda: DeploymentDeleteRequested(
            at=samples.moment(now), request=None, name=f"projects/default/deployments/{job_id}"
        ),
        "scale": lambda: samples.scale(now, 1 + number % 3, job_id),
        "wait": lambda: Tick(at=samples.moment(now), due=world.take_due(now)),
    }
    if what in simple:
        event: Input = simple[what]()
        return event
    return _from_service(world, now, move)


def _from_service(world: World, now: float, move: tuple[str, str, str, int]) -> Input | None:
    what, job_id, name, number = move
    service = world.service(name)
    epoch = 0 if service is None else service.epoch
    if what == "detach":
        return ServiceDetached(at=samples.moment(now), service=name, epoch=epoch)
    if what == "beat":
        return samples.heartbeat(now, name, epoch)
    if what == "ready":
        server = world.service("services/s")
        ready = DeploymentState.DEPLOYMENT_STATE_READY
        held = world.deployment_by_name(f"projects/default/deployments/{job_id}")
        status = DeploymentStatus(deployment_uid="" if held is None else held.uid, state=ready)
        at = samples.moment(now)
        held_by = 0 if server is None else server.epoch
        return DeploymentReported(at=at, service="services/s", epoch=held_by, status=status)
    attempt = world.live_attempt(f"uid-of-{job_id}")
    if attempt is None:
        return None
    holder = world.service(attempt.service)
    assert holder is not None
    if what == "events":
        first = attempt.acknowledged_source_sequence + 1
        return samples.events(now, attempt, *range(first, first + number + 1))
    if what == "checkpoint":
        return samples.commit(now, attempt, kind=ArtifactKind.ARTIFACT_KIND_CHECKPOINT, step=number)
    if what == "output":
        return samples.commit(now, attempt)
    outcomes = {
        "run": (AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED, None),
        "succeed": (AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, None),
        "fail": (AttemptOutcome.ATTEMPT_OUTCOME_FAILED, samples.failure(Reason.INTERNAL)),
        "poison": (AttemptOutcome.ATTEMPT_OUTCOME_FAILED, samples.failure(Reason.DATA_INVALID)),
    }
    outcome, error = outcomes[what]
    output = f"{ArtifactKind.ARTIFACT_KIND_ADAPTER}-{attempt.job_uid}-{attempt.attempt}-10"
    status = samples.attempt_status(attempt, outcome=outcome, error=error, output=output)
    return samples.report(now, status, attempt.service, holder.epoch)


def _picture(world: World) -> Any:
    """Return everything that the world says, to be compared."""
    return (
        dict(world._rows),
        dict(world._names),
        dict(world._live_attempts),
        {name: set(held) for name, held in world._attempts_of_service.items() if held},
        [
            {key: set(uids) for key, uids in index.items()}
            for index in (
                world._replicas._of_version,
                world._replicas._of_service,
                world._replicas._in_state,
            )
        ],
        sorted(world.queue.uids()),
        {device: set(holders) for device, holders in world.ledger.booked().items()},
        {name: list(idle) for name, idle in world.capacity._idle.items() if idle},
    )


@settings(max_examples=300, deadline=None)
@example([("deploy", "x", "services/a", 0), ("delete", "x", "services/a", 0)] * 2)
@given(st.lists(moves, max_size=60))
def test_any_history_can_be_undone_and_reloaded(history: list[tuple[str, str, str, int]]) -> None:
    world, durable, policy = World(), DurableRows(), Policy()
    now = 0.0
    for serial, move in enumerate(history):
        now += move[3] * 4
        event = _event(world, now, serial, move)
        if event is None:
            continue
        world.recall(durable.fetch(world.missing(wanted_keys(event))))
        before = _picture(world)

        decision = decide(world, event, policy)
        assert _picture(world) == before, "deciding changed the world"
        assert decide(world, event, policy).error.__class__ is decision.error.__class__
        world.apply(decision.changes)
        world.revert(decision.changes)
        assert _picture(world) == before, "undoing left something behind"

        world.apply(decision.changes)
        durable.commit(decision.changes)
        _check_versions(decision.changes)
        world.settle()
        reloaded = World(durable.working_set())
        assert {row.key: row for row in durable.working_set()} == {
            key: durable_part(row) for key, row in world._rows.items()
        }
        assert reloaded.ledger.booked() == world.ledger.booked()


def _check_versions(changes: tuple[Any, ...]) -> None:
    for change in changes:
        if isinstance(change, EventsAppended) or change.old is None:
            continue
        is_same = durable_part(change.old) == durable_part(change.new)
        assert is_durable(change) or is_same, f"{change.key} changed durably without a new version"


def test_a_change_from_another_row_is_refused_whole(desk: Any) -> None:
    desk.do(samples.submit(0))
    decision = desk.decide(samples.cancel(1))
    desk.do(samples.attached(1))
    before = _picture(desk.world)
    with pytest.raises(RuntimeError, match="not the one"):
        desk.world.apply(decision.changes)
    assert _picture(desk.world) == before


def test_what_frees_a_device_and_what_takes_it_are_not_independent(desk: Any) -> None:
    desk.do(samples.attached(0))
    desk.do(samples.submit(0, "first"))
    desk.do(samples.submit(0, "second"))
    failed = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    ended = samples.attempt_status(
        desk.live("first"), outcome=failed, error=samples.failure(Reason.DATA_INVALID)
    )
    freeing = desk.decide(samples.report(1, ended)).changes
    other = desk.decide(samples.submit(1, "third")).changes
    assert ("device", "host-of-services/a", "cpu-0") in footprint(freeing)
    assert ("job", "uid-of-second", 0) in footprint(freeing), "it took the device"
    assert footprint(freeing).isdisjoint(footprint(other))


def test_settled_rows_leave_and_can_be_recalled(desk: Any) -> None:
    desk.do(samples.submit(0, request_id="r"))
    desk.do(samples.cancel(1))
    assert desk.world.jobs() == []
    wanted = wanted_keys(samples.cancel(2))
    assert desk.world.missing(wanted) == wanted
    desk.world.recall(desk.durable.fetch(wanted))
    assert desk.world.job_by_name("projects/default/jobs/job") is not None
    desk.world.settle()
    assert desk.world.missing(wanted) == wanted


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 10)), max_size=30), st.floats(0, 10))
def test_exactly_what_is_due_is_taken(arms: list[tuple[str, float]], now: float) -> None:
    deadlines, latest = Deadlines(), {}
    for name, deadline in arms:
        key = ("job", name, 0)
        latest[key] = deadline
        deadlines.arm(key, deadline)

    due = deadlines.take_due(now, latest.get)

    assert sorted(due) == sorted(key for key, deadline in latest.items() if deadline <= now)
    assert len(deadlines) == len(latest) - len(due)
    rest = deadlines.take_due(10, latest.get)
    assert sorted([*due, *rest]) == sorted(latest)


def test_row_changes_name_their_row(desk: Any) -> None:
    changes = desk.decide(samples.submit(0)).changes
    keys = [change.key for change in changes if isinstance(change, RowChange)]
    assert keys == [("job", "uid-of-job", 0), ("spec", "uid-of-job", 0)]
