"""What decides which artifacts are needed, read from the store, and their removal from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sqlalchemy import Connection, RowMapping, delete, select, update

from tunefleet.artifact.v1.artifact_pb2 import Manifest
from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_coordinator.store import tables
from tunefleet_coordinator.store.answers import answered, remember
from tunefleet_coordinator.store.datasets import datasets
from tunefleet_core.artifacts.retention import ArtifactFacts, JobFacts, ManifestFacts, Removal
from tunefleet_core.lifecycle import AttemptState, Request
from tunefleet_core.lifecycle.rows import TERMINAL_JOB_STATES

__all__ = [
    "NeedsOfJobs",
    "artifact_facts",
    "forget_manifests",
    "jobs_that_may_run",
    "needs_of_jobs",
    "oldest_live_attempt",
    "remove_model",
    "served_manifests",
    "with_needs",
]

_RETRYABLE = (JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED)

NeedsOfJobs = dict[str, frozenset[str]]
"""By job uid: digests of manifests and blobs that its resolved spec names."""


def artifact_facts(connection: Connection) -> ArtifactFacts:
    """Return the facts without the needs of jobs, which take long to read: see `needs_of_jobs`."""
    manifests, jobs, models = tables.manifests, tables.jobs, tables.models
    return ArtifactFacts(
        manifests=tuple(_manifest(row) for row in connection.execute(select(manifests)).mappings()),
        jobs={row["uid"]: _job(row) for row in connection.execute(select(jobs)).mappings()},
        models=frozenset(connection.execute(select(models.c.manifest_digest)).scalars()),
        served=served_manifests(connection),
        datasets=frozenset(connection.execute(select(datasets.c.sha256)).scalars()),
    )


def served_manifests(connection: Connection) -> frozenset[str]:
    """Return the manifests that deployments need, as adapter or as base."""
    deployments = tables.deployments
    statement = select(deployments.c.adapter_manifest_digest, deployments.c.base_facts).where(
        deployments.c.state != DeploymentState.DEPLOYMENT_STATE_DELETED
    )
    found: set[str] = set()
    for adapter, base in connection.execute(statement):
        found |= {adapter, BaseFacts.FromString(base).manifest_digest}
    return frozenset(found - {""})


def jobs_that_may_run(connection: Connection, *, with_retryable: bool) -> list[str]:
    """Return the uids of jobs that are not over, or could be put back into the queue."""
    jobs = tables.jobs
    over = [state for state in TERMINAL_JOB_STATES if not (with_retryable and state in _RETRYABLE)]
    return list(connection.execute(select(jobs.c.uid).where(jobs.c.state.not_in(over))).scalars())


def needs_of_jobs(connection: Connection, uids: Sequence[str]) -> NeedsOfJobs:
    """Return what jobs need, a few at a time: a resolved spec names every tensor of its base."""
    specs = tables.specs
    statement = select(specs.c.job_uid, specs.c.resolved_spec).where(specs.c.job_uid.in_(uids))
    return {uid: _needs(ResolvedSpec.FromString(resolved)) for uid, resolved in connection.execute(statement)}


def oldest_live_attempt(connection: Connection) -> float | None:
    """Return when the oldest attempt began that has not ended, wall-clock seconds."""
    attempts = tables.attempts
    statement = select(attempts.c.create_time).where(attempts.c.state != int(AttemptState.ENDED))
    return min(connection.execute(statement).scalars(), default=None)


def with_needs(facts: ArtifactFacts, needs: NeedsOfJobs, held: frozenset[str]) -> ArtifactFacts:
    """Return the facts with what jobs need and requests hold."""
    jobs = {uid: replace(job, needs=needs[uid]) if uid in needs else job for uid, job in facts.jobs.items()}
    return replace(facts, jobs=jobs, held=held)


@dataclass(frozen=True, slots=True, kw_only=True)
class _JobNow:
    version: int
    checkpoint_digest: str | None


def forget_manifests(
    connection: Connection, removals: Iterable[Removal], versions: dict[str, int]
) -> list[Removal]:
    """Remove manifests whose jobs are as they were; return those that went.

    A job that changed since it was judged (a retry) keeps everything. A job whose resume point goes
    says so: its next try begins anew.

    Args:
        removals: What was found to be of no need.
        versions: By job uid, the version of the job that was judged; missing: there was no job.
    """
    gone: list[Removal] = []
    manifests, jobs, models = tables.manifests, tables.jobs, tables.models
    served = served_manifests(connection)
    named = frozenset(connection.execute(select(models.c.manifest_digest)).scalars())
    by_job = sorted(removals, key=lambda removal: removal.manifest.job_uid)
    for uid, group in groupby(by_job, key=lambda removal: removal.manifest.job_uid):
        now = _job_now(connection, uid)
        if (None if now is None else now.version) != versions.get(uid):
            continue
        for removal in group:
            digest = removal.manifest.digest
            if digest in served or digest in named:
                continue
            connection.execute(
                delete(manifests).where(manifests.c.digest == digest, manifests.c.job_uid == uid)
            )
            gone.append(removal)
            if now is not None and digest == now.checkpoint_digest:
                forgotten = {"checkpoint_step": None, "checkpoint_digest": None, "checkpoint_attempt": None}
                connection.execute(
                    update(jobs).where(jobs.c.uid == uid).values(version=now.version + 1, **forgotten)
                )
    return gone


def remove_model(connection: Connection, name: str, request: Request | None, at: float) -> None:
    """Remove a model's row, once per request."""
    if answered(connection, request) is None:
        connection.execute(delete(tables.models).where(tables.models.c.name == name))
        remember(connection, request, name, at)


def _job_now(connection: Connection, uid: str) -> _JobNow | None:
    jobs = tables.jobs
    found = connection.execute(
        select(jobs.c.version, jobs.c.checkpoint_digest).where(jobs.c.uid == uid)
    ).first()
    return None if found is None else _JobNow(version=found[0], checkpoint_digest=found[1])


def _manifest(row: RowMapping) -> ManifestFacts:
    files = Manifest.FromString(row["manifest"]).files
    return ManifestFacts(
        digest=row["digest"],
        job_uid=row["job_uid"],
        kind=row["kind"],
        step=row["step"],
        create_time=row["create_time"],
        files=tuple((file.sha256, file.size_bytes) for file in files),
    )


def _job(row: RowMapping) -> JobFacts:
    return JobFacts(
        uid=row["uid"],
        name=row["name"],
        version=row["version"],
        is_live=row["state"] not in TERMINAL_JOB_STATES,
        is_retryable=row["state"] in _RETRYABLE,
        end_time=row["end_time"] or 0.0,
        checkpoint_digest=row["checkpoint_digest"] or "",
        output_digest=row["output_digest"],
    )


def _needs(resolved: ResolvedSpec) -> frozenset[str]:
    named = {resolved.adapter.manifest_digest, resolved.base.manifest_digest}
    for companion in resolved.companions:
        named |= {companion.adapter.manifest_digest, companion.base.manifest_digest}
    return frozenset((named | {item.sha256 for item in resolved.data}) - {""})
