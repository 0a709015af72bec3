"""What may go: a pure decision about manifests, and which blobs the rest still names.

Nothing that a live job, a deployment or a model needs may go, and nothing that a failed or
cancelled job would need to be tried again, except its checkpoints once they are old.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind

__all__ = ["ArtifactFacts", "JobFacts", "ManifestFacts", "Removal", "blobs_needed", "manifests_to_remove"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFacts:
    """A committed manifest. Times are wall-clock seconds."""

    digest: str
    job_uid: str
    kind: ArtifactKind.ValueType
    step: int
    create_time: float
    files: tuple[tuple[str, int], ...]
    """SHA-256 and size in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """A job as far as its artifacts go."""

    uid: str
    name: str
    version: int
    is_live: bool
    """It may still run by itself."""
    is_retryable: bool = False
    """It failed or was cancelled, so it can be put back into the queue."""
    end_time: float = 0.0
    checkpoint_digest: str = ""
    """Where it would go on."""
    output_digest: str = ""
    needs: frozenset[str] = frozenset()
    """Digests of manifests and blobs that its resolved spec names, if it is live or retryable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFacts:
    """Everything that decides what is needed."""

    manifests: tuple[ManifestFacts, ...] = ()
    jobs: dict[str, JobFacts] = field(default_factory=dict[str, JobFacts])
    models: frozenset[str] = frozenset()
    """Manifests that models name."""
    served: frozenset[str] = frozenset()
    """Manifests that deployments need, as adapter or as base."""
    datasets: frozenset[str] = frozenset()
    """Blobs that datasets name."""
    held: frozenset[str] = frozenset()
    """Digests that requests under way have found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A manifest that may go, and why."""

    manifest: ManifestFacts
    name: str
    reason: str


def manifests_to_remove(facts: ArtifactFacts, *, before: float) -> list[Removal]:
    """Return the manifests that nothing needs any more.

    Args:
        facts: As the store has them now.
        before: Only what was last needed before this moment, wall-clock seconds.
    """
    needed = facts.models | facts.served | facts.held | _needs(facts.jobs.values())
    superseded = _superseded(facts.manifests)
    found: list[Removal] = []
    for manifest in facts.manifests:
        if manifest.digest in needed:
            continue
        job = facts.jobs.get(manifest.job_uid)
        reason = _reason(manifest, job, superseded.get((manifest.job_uid, manifest.digest)), before)
        if reason:
            owner = manifest.job_uid if job is None else job.name
            kind = ArtifactKind.Name(manifest.kind).removeprefix("ARTIFACT_KIND_").lower()
            name = f"{owner} {kind} {manifest.digest[:12]}"
            if manifest.kind == ArtifactKind.ARTIFACT_KIND_CHECKPOINT:
                name = f"{owner} step {manifest.step}"
            found.append(Removal(manifest=manifest, name=name, reason=reason))
    return found


def blobs_needed(facts: ArtifactFacts, removed: Iterable[Removal]) -> frozenset[str]:
    """Return the blobs that must stay once some manifests are gone."""
    gone = {(removal.manifest.digest, removal.manifest.job_uid) for removal in removed}
    named = {
        sha256
        for manifest in facts.manifests
        if (manifest.digest, manifest.job_uid) not in gone
        for sha256, _ in manifest.files
    }
    return frozenset(named) | facts.datasets | facts.held | _needs(facts.jobs.values())


def _needs(jobs: Iterable[JobFacts]) -> frozenset[str]:
    return frozenset(digest for job in jobs if job.is_live or job.is_retryable for digest in job.needs)


def _reason(manifest: ManifestFacts, job: JobFacts | None, superseded: float | None, before: float) -> str:
    """Return why nothing needs a manifest; empty if something may."""
    if job is None:
        return "its job was deleted" if manifest.create_time < before else ""
    if job.is_live or manifest.kind == ArtifactKind.ARTIFACT_KIND_EVALUATION:
        return ""
    if manifest.kind != ArtifactKind.ARTIFACT_KIND_CHECKPOINT:
        if manifest.digest == job.output_digest:
            return "its model was deleted"
        return "its job made no model of it" if job.end_time < before else ""
    if manifest.digest == job.checkpoint_digest or superseded is None:
        last_needed = job.end_time
    else:
        last_needed = min(job.end_time, superseded)
    if last_needed >= before:
        return ""
    if not job.is_retryable:
        return "its job has succeeded"
    return "a newer checkpoint is there" if last_needed < job.end_time else "its job ended long ago"


def _superseded(manifests: Iterable[ManifestFacts]) -> dict[tuple[str, str], float]:
    """Return when each checkpoint was followed by a later one of its job."""
    by_job: dict[str, list[ManifestFacts]] = {}
    for manifest in manifests:
        if manifest.kind == ArtifactKind.ARTIFACT_KIND_CHECKPOINT:
            by_job.setdefault(manifest.job_uid, []).append(manifest)
    return dict(_followed(by_job.values()))


def _followed(jobs: Iterable[list[ManifestFacts]]) -> Iterator[tuple[tuple[str, str], float]]:
    for checkpoints in jobs:
        checkpoints.sort(key=lambda item: (item.create_time, item.step))
        for older, newer in pairwise(checkpoints):
            yield (older.job_uid, older.digest), newer.create_time
