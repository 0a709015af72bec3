"""Export jobs through a real coordinator, trainer and server, with the echo backend."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "chaos"))

from chaos_fleet import ChaosFleet, assert_whole, echo_job

from tunefleet.deployment.v1.deployment_pb2 import ContractState, DeploymentSpec
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client
from tunefleet_core.errors import Reason, TunefleetError

_MODEL_FILE = "model.json"


@pytest.fixture
async def fleet() -> AsyncIterator[ChaosFleet]:
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))  # unix sockets need short paths
    running = ChaosFleet(root, lease_seconds=6.0)  # on a busy machine a short one ends attempts by itself
    try:
        await running.start_coordinator()
        await running.start_trainer()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)


def export_job(model: str, **options: float) -> JobSpec:
    spec = JobSpec(name="whole", max_attempts=3)
    spec.export.model.model = model
    spec.export.merge.SetInParent()
    spec.backend_options.update(options)
    return spec


async def trained(fleet: ChaosFleet, client: Client) -> Job:
    job, _ = await fleet.finish(client, (await client.jobs.create(echo_job(), job_id="tickets")).name)
    assert job.state == JobState.JOB_STATE_SUCCEEDED, job.error
    return job


async def merged_state(fleet: ChaosFleet, job: Job) -> str:
    folder = fleet.root / f"whole-{job.uid}"
    await fleet.materialise(job.result.manifest_digest, folder)
    assert [path.name for path in folder.iterdir()] == [_MODEL_FILE]
    return json.loads((folder / _MODEL_FILE).read_text())["state"]


async def test_an_export_makes_a_model_with_lineage_that_is_served(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        adapter = await trained(fleet, client)
        job = await client.jobs.create(export_job("models/tickets"), job_id="whole")
        assert job.resolved_spec.adapter.manifest_digest == adapter.result.manifest_digest
        assert job.resolved_spec.adapter.trained_with.optim.max_steps == 20
        assert job.resolved_spec.backend.name == "echo", "who wrote the adapter merges it"
        job, events = await fleet.finish(client, job.name)
        assert job.state == JobState.JOB_STATE_SUCCEEDED, job.error
        assert_whole(events)
        model = await client.models.get("whole")
        assert model.kind == "model"
        assert model.manifest.lineage.job == job.name
        await fleet.spawn(
            "server",
            *("-m", "tunefleet_services.server", "--address", fleet.service_address),
            *("--token-file", str(fleet.state / "service.token"), "--state", str(fleet.state)),
            *("--lease-seconds", str(fleet.lease_seconds)),
        )
        folders = fleet.state / "services" / "server" / "models"
        deployed = await _created(fleet, client, "models/whole")
        ready = await client.deployments.wait(deployed, deadline_seconds=60)
        assert ready.contract.numbers == ContractState.CONTRACT_STATE_UNVERIFIED, "echo keeps no record"
        assert [path.name for path in folders.iterdir()] == [model.manifest.digest]
        blob = fleet.state / "artifacts" / "sha256"
        (laid_out,) = (folders / model.manifest.digest).iterdir()
        stored = blob / model.manifest.files[0].sha256[:2] / model.manifest.files[0].sha256
        assert laid_out.samefile(stored), "a link, no copy"
        await client.deployments.delete(deployed)
        await fleet.until(lambda: not list(folders.iterdir()), "its folder is gone")


async def _created(fleet: ChaosFleet, client: Client, model: str) -> str:
    """Deploy once a server with an engine is attached."""
    name = ""

    async def deploys() -> bool:
        nonlocal name
        try:
            name = (await client.deployments.create(DeploymentSpec(model=model))).name
        except TunefleetError as error:
            if error.reason is not Reason.BACKEND_NOT_INSTALLED:
                raise
        return bool(name)

    await fleet.until(deploys, "a server has the engine", 60)
    return name


@pytest.mark.slow
async def test_a_killed_export_is_tried_again_and_ends_in_the_same_bytes(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        await trained(fleet, client)
        whole, _ = await fleet.finish(client, (await client.jobs.create(export_job("models/tickets"))).name)
        job = await client.jobs.create(export_job("models/tickets", save_seconds=3))
        run = await fleet.run_begun(job)
        await fleet.until(lambda: (run.folder / "output.partial").is_dir(), "it writes")
        for pid in run.pids().values():
            await asyncio.to_thread(_kill, pid)
        job, events = await fleet.finish(client, job.name)
        assert job.state == JobState.JOB_STATE_SUCCEEDED, job.error
        assert job.attempt == 2
        assert_whole(events)
        assert await merged_state(fleet, job) == await merged_state(fleet, whole)


@pytest.mark.slow
async def test_a_cancelled_export_leaves_no_model(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        await trained(fleet, client)
        job = await client.jobs.create(export_job("models/tickets", save_seconds=60), job_id="never")
        await fleet.run_begun(job)
        await client.jobs.cancel(job.name)
        job, _ = await fleet.finish(client, job.name)
        assert job.state == JobState.JOB_STATE_CANCELLED
        with pytest.raises(TunefleetError) as caught:
            await client.models.get("never")
        assert caught.value.reason is Reason.MODEL_NOT_FOUND


async def test_what_cannot_be_exported_is_refused_at_submit(fleet: ChaosFleet) -> None:
    async with fleet.client() as client:
        with pytest.raises(TunefleetError) as caught:
            await client.jobs.create(export_job("models/nobody"))
        assert caught.value.reason is Reason.MODEL_NOT_FOUND
        spec = echo_job()
        spec.train.merge = True
        merged = await client.jobs.create(spec, job_id="merged")
        await fleet.finish(client, merged.name)
        assert (await client.models.get("merged")).kind == "model"
        with pytest.raises(TunefleetError, match="a whole model already"):
            await client.jobs.create(export_job("models/merged"))


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
