"""Remove what nothing needs any more: rows first, then bytes.

Rows go in transactions that look again; bytes go only if they were put before anybody alive can
have put them. So a commit, a retry or a submit at the same moment loses nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tunefleet.artifact.v1.artifact_service_pb2 import PrunedItem
from tunefleet_coordinator.holds import Holds
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.store import retention
from tunefleet_core.artifacts import BlobStore
from tunefleet_core.artifacts.retention import (
    ArtifactFacts,
    ManifestFacts,
    Removal,
    blobs_needed,
    manifests_to_remove,
)
from tunefleet_core.artifacts.sweeping import Sweep, SweepOrder
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Request, Tick

__all__ = ["BLOB_GRACE_SECONDS", "Pruned", "Pruner"]

BLOB_GRACE_SECONDS = 3600.0
"""A blob, a partial or a run folder younger than this stays, whatever was asked."""
_CLOCK_SLACK_SECONDS = 60.0
_SPECS_AT_ONCE = 50
_REMOVALS_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What went, or would go."""

    items: list[PrunedItem]
    freed_bytes: int


class Pruner:
    """Finds and removes what nothing needs; one prune at a time."""

    def __init__(
        self,
        kernel: Kernel,
        blobs: BlobStore,
        holds: Holds,
        *,
        services_folder: Path,
        grace_seconds: float = BLOB_GRACE_SECONDS,
    ) -> None:
        self._kernel = kernel
        self._blobs = blobs
        self._holds = holds
        self._services_folder = services_folder
        self._grace_seconds = grace_seconds
        self._turn = asyncio.Lock()

    async def prune(self, *, older_than_seconds: float, is_trial: bool) -> Pruned:
        """Remove what was last needed so long ago; with `is_trial` only tell what would go."""
        async with self._turn:
            now = self._kernel.moment().wall
            never_after = await self._never_after(now)
            async with self._holds.removing() as held:
                facts = await self._facts(held)
                removals = manifests_to_remove(facts, before=now - older_than_seconds)
                if not is_trial:
                    removals = await self._forget(removals, facts)
            stale = now - max(older_than_seconds, self._grace_seconds)
            order = SweepOrder(
                needed=blobs_needed(facts, removals),
                put_before=stale,
                never_after=never_after,
                released=_released(removals),
                stale_before=stale,
                run_folders=await self._run_folders(facts, stale),
            )
            sweep = Sweep(self._blobs, order, is_trial=is_trial)
            swept, freed = await asyncio.to_thread(sweep.run)
        items = [_item_of(removal) for removal in removals]
        items += [
            PrunedItem(kind=item.kind, name=item.name, size_bytes=item.size_bytes, reason=item.reason)
            for item in swept
        ]
        return Pruned(items=items, freed_bytes=freed)

    async def delete_model(self, name: str, digest: str, request: Request | None) -> None:
        """Remove a model.

        Raises:
            TunefleetError: STATE_CONFLICT if it is served, or a job that is not over needs it.
        """
        store = self._kernel.store
        async with self._holds.removing() as held:
            await self._settle()
            if digest in await self._kernel.read(store.read, retention.served_manifests):
                raise _needed(name, "a deployment serves it", "tunefleet deployments list")
            if name in held or digest in held:
                raise _needed(name, "a job or deployment that is being submitted needs it", "Try again.")
            needs = await self._needs(with_retryable=False)
            user = next((uid for uid, digests in needs.items() if digest in digests), None)
            if user is not None:
                job = await self._kernel.read(store.get_job_by_uid, user)
                who = user if job is None else job.name
                raise _needed(name, f"{who} needs it", "Wait for it, or cancel it.")
            at = self._kernel.moment().wall
            await self._kernel.write(store.write, retention.remove_model, name, request, at)

    async def _facts(self, held: frozenset[str]) -> ArtifactFacts:
        await self._settle()
        store = self._kernel.store
        facts = await self._kernel.read(store.read, retention.artifact_facts)
        return retention.with_needs(facts, await self._needs(with_retryable=True), held)

    async def _settle(self) -> None:
        """Wait until every input handed in before is in the store: inputs are carried out in order."""
        await self._kernel.submit(Tick(at=self._kernel.moment(), due=()))

    async def _needs(self, *, with_retryable: bool) -> retention.NeedsOfJobs:
        store = self._kernel.store
        uids = await self._kernel.read(store.read, retention.jobs_that_may_run, with_retryable=with_retryable)
        needs: retention.NeedsOfJobs = {}
        for start in range(0, len(uids), _SPECS_AT_ONCE):
            part = uids[start : start + _SPECS_AT_ONCE]
            needs |= await self._kernel.read(store.read, retention.needs_of_jobs, part)
        return needs

    async def _never_after(self, now: float) -> float:
        """Return the moment since which an attempt that is alive may have put blobs."""
        oldest = await self._kernel.read(self._kernel.store.read, retention.oldest_live_attempt)
        return now if oldest is None else min(now, oldest - _CLOCK_SLACK_SECONDS)

    async def _forget(self, removals: list[Removal], facts: ArtifactFacts) -> list[Removal]:
        versions = {uid: job.version for uid, job in facts.jobs.items()}
        gone: list[Removal] = []
        for start in range(0, len(removals), _REMOVALS_AT_ONCE):
            part = removals[start : start + _REMOVALS_AT_ONCE]
            done = await self._kernel.write(
                self._kernel.store.write, retention.forget_manifests, part, versions
            )
            # A resume point that went has changed its job; the rest of the job's removals follow.
            for removal in done:
                job = facts.jobs.get(removal.manifest.job_uid)
                if job is not None and removal.manifest.digest == job.checkpoint_digest:
                    versions[job.uid] = job.version + 1
            gone += done
        return gone

    async def _run_folders(self, facts: ArtifactFacts, before: float) -> tuple[Path, ...]:
        """Return folders of ended runs whose trainer is not there to remove them itself."""
        attached = await self._kernel.observe(
            lambda world: {row.name.rpartition("/")[2] for row in world.services() if row.is_attached}
        )
        return await asyncio.to_thread(self._find_run_folders, facts, before, attached)

    def _find_run_folders(self, facts: ArtifactFacts, before: float, attached: set[str]) -> tuple[Path, ...]:
        found: list[Path] = []
        for folder in sorted(self._services_folder.glob("*/runs/*-*")):
            if folder.parent.parent.name in attached or not folder.is_dir() or folder.is_symlink():
                continue
            job = facts.jobs.get(folder.name.rpartition("-")[0])
            ended = folder.stat().st_mtime if job is None else job.end_time
            if (job is None or not job.is_live) and ended < before:
                found.append(folder)
        return tuple(found)


def _released(removals: list[Removal]) -> dict[str, float]:
    released: dict[str, float] = {}
    for removal in removals:
        for sha256, _ in removal.manifest.files:
            released[sha256] = max(released.get(sha256, 0.0), removal.manifest.create_time)
    return released


def _item_of(removal: Removal) -> PrunedItem:
    return PrunedItem(
        kind="checkpoint" if " step " in removal.name else "manifest",
        name=removal.name,
        size_bytes=_size(removal.manifest),
        reason=removal.reason,
    )


def _size(manifest: ManifestFacts) -> int:
    return sum(size_bytes for _, size_bytes in manifest.files)


def _needed(name: str, why: str, hint: str) -> TunefleetError:
    return TunefleetError(
        Reason.STATE_CONFLICT,
        f"'{name.rpartition('/')[2]}' cannot be removed: {why}.",
        hint=hint,
        metadata={"name": name, "reason": why},
    )
