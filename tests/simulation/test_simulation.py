"""Fleets through crashes, delays and partitions; and planted bugs, which must not go unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
from google.rpc.status_pb2 import Status

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle import (
    AttemptRow,
    Decision,
    DeploymentRow,
    EventsReported,
    Input,
    JobRow,
    JobSubmitted,
    ManifestCommitted,
    ManifestRow,
    PauseRequested,
    Policy,
    ReplicaRow,
    ServiceRow,
    Tick,
    TrafficRow,
    World,
    decide,
    pausing,
    placement,
    replica_retries,
    rollouts,
)
from tunefleet_core.lifecycle import attempts as attempt_rules
from tunefleet_core.lifecycle import replicas as replica_rules
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.testing import simulator
from tunefleet_core.testing.simulation import Decide, InvariantError, Settings, run_seed
from tunefleet_core.testing.simulation.trainer import SimulatedTrainer

# The package's name `decide` is the function; what a test puts into its module needs the module.
decide_module = sys.modules[decide.__module__]
SMALL = Settings(services=4, jobs=30, settle_seconds=600)


@pytest.mark.parametrize("seed", range(40))
def test_a_small_fleet_holds_every_invariant(seed: int) -> None:
    outcome = run_seed(seed, SMALL)
    assert sum(outcome.states.values()) + outcome.deleted == SMALL.jobs
    assert outcome.faults > 0


def test_a_larger_fleet_holds_every_invariant() -> None:
    outcome = run_seed(3, Settings(services=60, jobs=200))
    assert outcome.states["SUCCEEDED"] > 100
    assert outcome.attempts > 200, "some work was done again"
    assert outcome.boots > 1
    assert outcome.paused > 20
    assert outcome.interrupted > 2
    assert outcome.deleted > 5


def test_roll_outs_end_either_way_and_never_with_the_wrong_version() -> None:
    outcomes = [run_seed(seed, replace(SMALL, jobs=5, deployments=10, rollouts=3)) for seed in range(6)]
    assert sum(outcome.rolled_out for outcome in outcomes) > 5
    assert sum(outcome.rolled_back for outcome in outcomes) > 5


def test_replicas_are_lost_and_taken_away_while_others_answer() -> None:
    settings = replace(SMALL, services=10, jobs=5, deployments=10, scalings=4)
    outcomes = [run_seed(seed, settings) for seed in range(3)]
    assert sum(outcome.replicas_lost for outcome in outcomes) > 5
    assert sum(outcome.replicas_removed for outcome in outcomes) > 10
    assert sum(outcome.replicas_retried for outcome in outcomes) > 20
    assert sum(outcome.replicas_given_up for outcome in outcomes) > 0


def _found(decide_with: Decide, seeds: int = 30) -> str:
    """Return what the first seed that fails says."""
    for seed in range(seeds):
        try:
            run_seed(seed, SMALL, decide_with)
        except (InvariantError, RuntimeError) as error:
            return str(error)
    pytest.fail("The planted bug went unnoticed.")


def _without_fence(world: World, event: Input, policy: Policy) -> Decision:
    """Whoever commits is taken for the holder of the live attempt."""
    if isinstance(event, ManifestCommitted | EventsReported):
        live = world.live_attempt(event.job_uid)
        if live is not None:
            event = replace(event, attempt=live.attempt, fencing_number=live.fencing_number)
    return decide(world, event, policy)


def test_a_removed_fence_is_found() -> None:
    assert "stale fence" in _found(_without_fence)


def test_forgotten_request_ids_are_found() -> None:
    def forgetful(world: World, event: Input, policy: Policy) -> Decision:
        if isinstance(event, JobSubmitted):
            event = replace(event, request=None, job_id=event.uid)
        return decide(world, event, policy)

    assert "requests made" in _found(forgetful)


def test_a_device_given_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(draft: Draft, device: tuple[str, str]) -> bool:
        return True

    monkeypatch.setattr(Draft, "is_free", always)
    assert "booked twice" in _found(decide)


def test_a_refusal_that_is_tried_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_retries, "PASSING", frozenset(Reason))
    assert "does not pass" in _found(decide)


def test_a_replica_that_is_tried_without_end_is_found() -> None:
    def stubborn(world: World, event: Input, policy: Policy) -> Decision:
        return decide(world, event, replace(policy, replica_tries=1_000_000))

    assert "is to be tried again after" in _found(stubborn)


@pytest.mark.slow  # many seeds until one finds it
def test_a_wait_that_a_restart_cuts_short_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_retries, "_left", lambda draft, row, longest: 0.0)
    assert "before its time" in _found(decide)


def test_success_without_an_output_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a rule that trusted the report would do: take some manifest for the output.
    def trusting(draft: Draft, job: object, status: object) -> object:
        rows = [draft.world.row(key) for key in draft.world._rows if key[0] == "manifest"]
        return next((row for row in rows if row is not None), None) or _any_manifest()

    monkeypatch.setattr(attempt_rules, "_committed_output", trusting)
    assert "succeeded without a committed output" in _found(decide)


def _any_manifest() -> ManifestRow:
    return ManifestRow(
        digest="made up", job_uid="nobody", attempt=1, kind=2, step=0, manifest=b"", create_time=0.0
    )


def test_a_lease_that_never_ends_is_found() -> None:
    def patient(world: World, event: Input, policy: Policy) -> Decision:
        if isinstance(event, Tick):
            event = replace(event, due=tuple(key for key in event.due if key[0] != "attempt"))
        return decide(world, event, policy)

    assert "stuck" in _found(patient)


def test_a_pause_that_frees_the_device_before_the_run_has_ended_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hasty(draft: Draft, asked: PauseRequested) -> JobRow:
        job = pausing.asked_job(draft, asked.name)
        attempt = draft.world.live_attempt(job.uid)
        if attempt is not None and not job.cancel_requested:
            job = draft.move(job, JobState.JOB_STATE_PAUSED, "Paused, or so it says.")
        return job

    monkeypatch.setattr(decide_module, "pause_job", hasty)
    assert "PAUSED with a live attempt" in _found(decide)


def test_an_attempt_that_is_counted_though_it_was_paused_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def counting(draft: Draft, job: JobRow, reason: str) -> JobRow:
        return pausing.become_paused(draft, draft.write(job, failures=job.failures + 1), reason)

    monkeypatch.setattr(attempt_rules, "become_paused", counting)
    assert "counts 1 failures and had 0" in _found(decide)


def test_a_pause_that_is_forgotten_with_its_service_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def retrying(draft: Draft, job: JobRow, reason: str) -> JobRow:
        return draft.move(job, JobState.JOB_STATE_PENDING, reason)

    monkeypatch.setattr(attempt_rules, "become_paused", retrying)
    assert "was to be paused and is" in _found(decide)


def test_a_state_that_was_saved_and_is_not_gone_on_from_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_the_next_save_only(draft: Draft, job: JobRow, row: ManifestRow) -> JobRow:
        return job if job.state == JobState.JOB_STATE_PAUSING else advance(draft, job, row)

    advance = attempt_rules._advance
    monkeypatch.setattr(attempt_rules, "_advance", at_the_next_save_only)
    assert "is its newest" in _found(decide)


def test_a_trainer_that_pauses_without_saving_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedTrainer, "_save", lambda self, run: None)
    assert "was paused at step" in _found(decide)


def test_work_for_a_draining_service_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceRow, "takes_work", ServiceRow.is_attached)
    assert "Draining" in _found(decide)


def test_work_for_a_service_that_stops_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = property(lambda row: row.is_attached and not row.is_draining)
    monkeypatch.setattr(ServiceRow, "takes_work", deaf)
    assert "which stops, was given an attempt" in _found(decide)


def test_an_attempt_that_is_counted_though_its_service_was_stopped_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def counting(draft: Draft, job: JobRow, attempt: AttemptRow, error: Status | None) -> JobRow:
        return pausing.give_back(draft, draft.write(job, failures=job.failures + 1), attempt, error)

    monkeypatch.setattr(attempt_rules, "give_back", counting)
    assert "counts 1 failures and had 0" in _found(decide)


def test_a_seed_fails_the_same_way_again_and_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = ["--services", "4", "--jobs", "30"]
    assert simulator.main(["--seeds", "30", *fleet], _without_fence) == 1
    first = capsys.readouterr().err
    seed = first.split("--seed ")[1].split()[0]

    assert simulator.main(["--seed", seed, *fleet], _without_fence) == 1

    again = capsys.readouterr().err
    assert _last_error(first) == _last_error(again)
    assert simulator.main(["--seed", seed, *fleet, "--quiet"]) == 0


def _last_error(text: str) -> str:
    return next(line for line in reversed(text.splitlines()) if "InvariantError" in line)


def test_a_seed_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-m", "tunefleet_core.testing.simulator", "--seed", "5", "--services", "6"]
    lines = {
        subprocess.run(
            [*command, "--jobs", "30"],
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[0]
        for number in (1, 2)
    }
    assert len(lines) == 1


def test_a_roll_out_that_ends_with_the_wrong_version_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(draft: Draft, traffic: TrafficRow, reason: str, state: int = 4) -> None:
        # The end is written down, and the version of the name stays what it was.
        draft.write(traffic, state=state, end_time=draft.at.wall, reason=reason, deadline=None)

    monkeypatch.setattr(rollouts, "end_rollout", hasty)
    assert "wrong version" in _found(decide)


def test_two_replicas_on_one_engine_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement._Asked, "rivals", lambda self, service: {})
    assert "two replicas on one engine" in _found(decide)


def test_a_version_that_hides_a_missing_replica_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = DeploymentState.DEPLOYMENT_STATE_READY

    def hopeful(version: DeploymentRow, staying: Sequence[ReplicaRow]) -> int:
        state = state_of(version, staying)
        return ready if any(row.is_ready for row in staying) else state

    state_of = replica_rules._state
    monkeypatch.setattr(replica_rules, "_state", hopeful)
    assert "is READY with" in _found(decide)


def test_a_replica_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_rules, "_take_down", lambda draft, row, drain_seconds: None)
    assert "replicas, not" in _found(decide)
