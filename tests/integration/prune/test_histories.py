"""Random histories on a real store and a real disk: a prune never takes what something needs."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, File, Manifest
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_coordinator import pruning
from tunefleet_coordinator.holds import Holds
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.pruning import Pruner
from tunefleet_coordinator.store import Store
from tunefleet_core.artifacts import BlobStore
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import AttemptRow, DeploymentDeleteRequested, JobRow, ManifestRow, Policy
from tunefleet_core.testing import samples

_SERVICE = "services/a"


class History:
    """What a fleet does, decided by a seed."""

    def __init__(self, kernel: Kernel, folder: Path, seed: int) -> None:
        self.kernel = kernel
        self.blobs = BlobStore(folder / "artifacts")
        self.holds = Holds()
        self.pruner = Pruner(kernel, self.blobs, self.holds, services_folder=folder, grace_seconds=0)
        self.chosen = random.Random(seed)
        self._source = folder / "source"
        self._jobs: list[str] = []
        self._count = 0

    async def step(self) -> None:
        """Do one thing; what the state does not allow is refused, which is fine."""
        does: list[Callable[[], object]] = [
            self._submit,
            self._submit,
            self._commit,
            self._commit,
            self._commit,
            self._succeed,
            self._fail,
            self._cancel,
            self._retry,
            self._deploy,
            self._undeploy,
            self._delete_model,
        ]
        with suppress(TunefleetError):
            await self.chosen.choice(does)()  # type: ignore[misc]

    async def check(self) -> None:
        """Assert that everything is there that something needs."""
        store = self.kernel.store
        for uid in self._jobs:
            job = await self.kernel.read(store.get_job_by_uid, uid)
            assert job is not None
            spec = await self.kernel.read(store.get_spec, uid)
            assert spec is not None
            resolved = ResolvedSpec.FromString(spec.resolved_spec)
            is_retryable = job.is_terminal and not job.output_digest
            if not job.is_terminal or is_retryable:
                await self._assert_resume_point(job)
                if resolved.adapter.manifest_digest:
                    await self._assert_whole(resolved.adapter.manifest_digest, f"adapter of {uid}")
                for item in resolved.data:
                    assert self.blobs.path_of(item.sha256).is_file(), f"rows of {uid}"
            if not job.is_terminal:
                for checkpoint in (await self.kernel.read(store.list_checkpoints, uid)).items:
                    await self._assert_whole(checkpoint.digest, f"checkpoint of {uid}")
        for model in (await self.kernel.read(store.list_models, "default")).items:
            await self._assert_whole(model.manifest_digest, model.name)
        for row in (await self.kernel.read(store.list_deployments, "default")).items:
            await self._assert_whole(row.adapter_manifest_digest, row.name)

    async def _assert_resume_point(self, job: JobRow) -> None:
        """Assert that what a job names is there; between two reads a prune may take name and files both."""
        if job.checkpoint is None:
            return
        try:
            await self._assert_whole(job.checkpoint.manifest_digest, f"resume point of {job.uid}")
        except AssertionError:
            now = await self.kernel.read(self.kernel.store.get_job_by_uid, job.uid)
            if now is None or now.checkpoint == job.checkpoint:
                raise

    async def _assert_whole(self, digest: str, what: str) -> None:
        row = await self.kernel.read(self.kernel.store.get_manifest, digest)
        assert row is not None, f"{what}: manifest {digest}"
        for file in Manifest.FromString(row.manifest).files:
            assert self.blobs.path_of(file.sha256).is_file(), f"{what}: blob {file.sha256}"

    def _content(self) -> bytes:
        return f"content {self.chosen.randrange(12)}".encode()  # few of them, so that jobs share blobs

    def _put(self, content: bytes) -> tuple[str, int]:
        self._source.write_bytes(content)
        try:
            return self.blobs.put_file(self._source)
        finally:
            self._source.unlink()

    async def _submit(self) -> None:
        self._count += 1
        resolved = ResolvedSpec()
        with self.holds.request():
            models = (await self.kernel.read(self.kernel.store.list_models, "default")).items
            if models and self.chosen.random() < 0.5:
                async with self.holds.taking("model") as take:
                    model = self.chosen.choice(models)
                    if await self.kernel.read(self.kernel.store.get_model, model.name) is None:
                        return
                    take(model.manifest_digest)
                resolved.adapter.manifest_digest = model.manifest_digest
            content = self._content()
            sha256 = hashlib.sha256(content).hexdigest()
            async with self.holds.taking("rows") as take:
                take(sha256)
            await asyncio.to_thread(self._put, content)
            resolved.data.add(role="train", sha256=sha256)
            await asyncio.sleep(0.002)  # prunes come by while it is resolved
            asked = samples.submit(0, f"job-{self._count}")
            self._jobs.append(asked.uid)
            event = replace(asked, at=self.kernel.moment(), resolved_spec=resolved.SerializeToString())
            await self.kernel.submit(event)

    async def _live(self) -> AttemptRow | None:
        attempts = await self.kernel.observe(lambda world: [world.live_attempt(uid) for uid in self._jobs])
        live = [attempt for attempt in attempts if attempt is not None]
        return self.chosen.choice(live) if live else None

    async def _commit_of(self, attempt: AttemptRow, kind: ArtifactKind.ValueType) -> str:
        self._count += 1
        sha256, size_bytes = await asyncio.to_thread(self._put, self._content())
        await asyncio.sleep(0.002)  # prunes come by between put and commit
        event = samples.commit(0, attempt, kind=kind, step=self._count)
        manifest = Manifest.FromString(event.manifest)
        manifest.files.append(File(path="weights", sha256=sha256, size_bytes=size_bytes))
        event = replace(event, at=self.kernel.moment(), manifest=manifest.SerializeToString())
        answer = await self.kernel.submit(event)
        assert isinstance(answer, ManifestRow)
        return answer.digest

    async def _commit(self) -> None:
        attempt = await self._live()
        if attempt is not None:
            await self._commit_of(attempt, ArtifactKind.ARTIFACT_KIND_CHECKPOINT)

    async def _succeed(self) -> None:
        attempt = await self._live()
        if attempt is not None:
            output = await self._commit_of(attempt, ArtifactKind.ARTIFACT_KIND_ADAPTER)
            await self._end(attempt, AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, output=output)

    async def _fail(self) -> None:
        attempt = await self._live()
        if attempt is not None:
            error = samples.failure(Reason.DATA_INVALID)
            await self._end(attempt, AttemptOutcome.ATTEMPT_OUTCOME_FAILED, error=error)

    async def _cancel(self) -> None:
        attempt = await self._live()
        if attempt is not None:
            job_id = attempt.job_uid.removeprefix("uid-of-")
            await self.kernel.submit(replace(samples.cancel(0, job_id), at=self.kernel.moment()))
            await self._end(attempt, AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED)

    async def _end(self, attempt: AttemptRow, outcome: AttemptOutcome.ValueType, **more: object) -> None:
        status = samples.attempt_status(attempt, outcome=outcome, **more)  # type: ignore[arg-type]
        await self.kernel.submit(replace(samples.report(0, status), at=self.kernel.moment()))

    async def _retry(self) -> None:
        if self._jobs:
            job_id = self.chosen.choice(self._jobs).removeprefix("uid-of-")
            answer = await self.kernel.submit(replace(samples.retry(0, job_id), at=self.kernel.moment()))
            assert isinstance(answer, JobRow)

    async def _deploy(self) -> None:
        with self.holds.request():
            async with self.holds.taking("model") as take:
                models = (await self.kernel.read(self.kernel.store.list_models, "default")).items
                if not models:
                    return
                model = self.chosen.choice(models)
                take(model.manifest_digest)
            await asyncio.sleep(0.002)
            self._count += 1
            asked = samples.deployment(0, f"served-{self._count}", base=BaseFacts().SerializeToString())
            digest = model.manifest_digest
            await self.kernel.submit(replace(asked, at=self.kernel.moment(), adapter_manifest_digest=digest))

    async def _undeploy(self) -> None:
        rows = (await self.kernel.read(self.kernel.store.list_deployments, "default")).items
        if rows:
            name = self.chosen.choice(rows).name
            event = DeploymentDeleteRequested(at=self.kernel.moment(), request=None, name=name)
            await self.kernel.submit(event)

    async def _delete_model(self) -> None:
        models = (await self.kernel.read(self.kernel.store.list_models, "default")).items
        if models:
            model = self.chosen.choice(models)
            await self.pruner.delete_model(model.name, model.manifest_digest, None)


@pytest.fixture(autouse=True)
def _short_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    # A minute of slack would spare every blob of so short a history; a file's clock may lag by a tick.
    monkeypatch.setattr(pruning, "_CLOCK_SLACK_SECONDS", 0.05)


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_that_is_needed_goes_in_a_random_history(tmp_path: Path, seed: int) -> None:
    await _live_through(tmp_path, seed, steps=120)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [100, 101, 102])
async def test_nothing_that_is_needed_goes_in_long_histories(tmp_path: Path, seed: int) -> None:
    await _live_through(tmp_path, seed, steps=300)


async def _live_through(folder: Path, seed: int, *, steps: int) -> None:
    store = Store.open(folder / "store.db")
    kernel = Kernel(store, Policy(lease_term_seconds=1000))
    running = asyncio.ensure_future(kernel.run())
    removed = 0
    try:
        await kernel.ready()
        described = samples.service(_SERVICE, devices={"cpu-0": "cpu", "cpu-1": "cpu"})
        await kernel.submit(replace(samples.attached(0, described), at=kernel.moment()))
        history = History(kernel, folder, seed)
        done = asyncio.Event()

        async def prune() -> None:
            nonlocal removed
            while not done.is_set():
                removed += len((await history.pruner.prune(older_than_seconds=0, is_trial=False)).items)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            pruning = group.create_task(prune())
            for number in range(steps):
                await history.step()
                if number % 5 == 0:
                    await history.check()
                assert not pruning.done()
            done.set()
        await history.check()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        store.close()
    assert removed > 0, "nothing ever went, so nothing was tried"
