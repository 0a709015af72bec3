"""Prunes of a fleet of real processes: what goes, what stays, and what is being made meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from chaos_fleet import echo_job
from data_fleet import DataFleet

from tunefleet.artifact.v1.artifact_service_pb2 import PruneArtifactsResponse
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import Reason, TunefleetError


def _blobs(fleet: DataFleet) -> set[str]:
    return {path.name for path in (fleet.state / "artifacts" / "sha256").glob("*/*")}


def _kinds(answer: PruneArtifactsResponse) -> set[str]:
    return {item.kind for item in answer.items}


async def test_checkpoints_of_a_job_that_succeeded_go_and_its_model_stays(
    fleet: DataFleet, tmp_path: Path
) -> None:
    await fleet.start_trainer()
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=20, every_steps=5))
        done, events = await fleet.finish(client, job.name)
        await fleet.assert_succeeded(done, events)
        assert await client.jobs.checkpoints(job.name)
        before = _blobs(fleet)
        assert (await client.artifacts.prune()).items == [], "nothing is a day old"
        told = await client.artifacts.prune(older_than_seconds=0, validate_only=True)
        assert "checkpoint" in _kinds(told)
        assert _blobs(fleet) == before
        gone = await client.artifacts.prune(older_than_seconds=0)
        assert [item.name for item in gone.items] == [item.name for item in told.items]
        assert await client.jobs.checkpoints(job.name) == ()
        assert _blobs(fleet) < before
        assert (await client.artifacts.prune(older_than_seconds=0)).items == []
        manifest = await client.artifacts.fetch(done.result.model.rpartition("/")[2], tmp_path / "model")
        assert {path.name for path in (tmp_path / "model").iterdir()} >= {"state.json"}
        assert manifest.digest == done.result.manifest_digest
        assert (await client.jobs.get(job.name)).state == JobState.JOB_STATE_SUCCEEDED


async def test_a_cancelled_job_goes_on_where_it_was_until_that_is_pruned(fleet: DataFleet) -> None:
    await fleet.start_trainer()
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=60, every_steps=5, step_seconds=0.05))
        async with fleet.watching(client, job.name) as timeline:
            await timeline.wait_for(_is_checkpoint)
        await client.jobs.cancel(job.name)
        await fleet.finish(client, job.name)
        await client.artifacts.prune()
        cancelled = await client.jobs.get(job.name)
        assert cancelled.checkpoint.manifest_digest
        await client.artifacts.prune(older_than_seconds=0)
        assert (await client.jobs.get(job.name)).checkpoint.manifest_digest == ""
        await client.jobs.retry(job.name)
        done, _ = await fleet.finish(client, job.name)
    assert done.state == JobState.JOB_STATE_SUCCEEDED


async def test_prunes_without_end_take_nothing_from_a_job_that_runs(fleet: DataFleet) -> None:
    """Commits and prunes at the same moments; the trainer dies on the way and resumes from the store."""
    await fleet.start_trainer()
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=60, every_steps=2, step_seconds=0.03))
        ending = asyncio.Event()
        prunes = 0

        async def prune() -> None:
            nonlocal prunes
            while not ending.is_set():
                await client.artifacts.prune(older_than_seconds=0)
                prunes += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(prune())
            async with fleet.watching(client, job.name) as timeline:
                await timeline.wait_for(_is_checkpoint)
            run = fleet.run_of(job)
            assert run is not None
            await fleet.kill("trainer")
            await fleet.start_trainer()
            done, events = await fleet.finish(client, job.name)
            ending.set()
        assert prunes > 10
        await fleet.assert_succeeded(done, events)
        assert [event for event in events if _is_checkpoint(event)]


async def test_rows_of_a_job_that_waits_stay_when_their_dataset_is_deleted(
    fleet: DataFleet, tmp_path: Path
) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    await fleet.start_trainer()
    async with fleet.client() as client:
        dataset = await client.datasets.create("tickets", file)
        first = await client.jobs.create(echo_job(steps=200, step_seconds=0.05))
        spec = echo_job(steps=4)
        spec.train.data.train[0].source = "datasets/tickets"
        waiting = await client.jobs.create(spec)
        await client.datasets.delete("tickets")
        await client.artifacts.prune(older_than_seconds=0)
        assert dataset.sha256 in _blobs(fleet)
        await client.jobs.cancel(first.name)
        done, _ = await fleet.finish(client, waiting.name)
        assert done.state == JobState.JOB_STATE_SUCCEEDED
        await fleet.finish(client, first.name)
        await client.artifacts.prune(older_than_seconds=0)
        assert dataset.sha256 not in _blobs(fleet)


async def test_a_model_is_deleted_and_its_files_go_with_the_next_prune(fleet: DataFleet) -> None:
    await fleet.start_trainer()
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=4))
        done, _ = await fleet.finish(client, job.name)
        await client.models.delete(done.result.model)
        with pytest.raises(TunefleetError) as raised:
            await client.models.get(done.result.model)
        assert raised.value.reason is Reason.MODEL_NOT_FOUND
        with pytest.raises(TunefleetError) as again:
            await client.models.delete(done.result.model)
        assert again.value.reason is Reason.MODEL_NOT_FOUND
        await client.models.delete(done.result.model, allow_missing=True)
        await client.artifacts.prune(older_than_seconds=0)
        assert _blobs(fleet) == set()


def _is_checkpoint(event: JobEvent) -> bool:
    return event.WhichOneof("payload") == "checkpoint_committed"
