"""Code that must type-check, with the types that people get. Read by test_types.py, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import assert_type

from tunefleet.deployment.v1.deployment_pb2 import Deployment
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet.fleet.v1.fleet_service_pb2 import GetFleetResponse
from tunefleet.inference.v1.inference_service_pb2 import ChatResponse
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client, FieldViolation, JobChange, NotFound, Reason, connect
from tunefleet_client import sync as blocking


async def asynchronous() -> None:
    async with connect() as client:
        assert_type(client, Client)
        assert_type(await client.jobs.create("job.yaml"), Job)
        assert_type(await client.jobs.create(Path("job.yaml")), Job)
        assert_type(await client.jobs.create(JobSpec()), Job)
        assert_type(await client.jobs.create({"name": "a", "train": {"base": {"model": "x/y"}}}), Job)
        assert_type(await client.jobs.list(states=[JobState.JOB_STATE_FAILED], labels={}), tuple[Job, ...])
        assert_type(await client.jobs.delete("a"), None)
        assert_type(client.jobs.watch("a"), AsyncGenerator[JobChange])
        async for change in client.jobs.watch("a"):
            assert_type(change.event, JobEvent | None)
        assert_type(await client.fleet.list(), tuple[Service, ...])
        assert_type(await client.inference.tokenize("m", text="a"), tuple[int, ...])
        assert_type(client.chat("m", [{"role": "user", "content": "a"}]), AsyncGenerator[ChatResponse])


def synchronous() -> None:
    with blocking.connect() as client:
        assert_type(client, blocking.Client)
        assert_type(client.jobs.create("job.yaml"), Job)
        assert_type(client.jobs.watch("a"), Generator[JobChange])
        for change in client.jobs.watch("a"):
            assert_type(change.snapshot, Job | None)
        assert_type(client.deployments.create("models/m"), Deployment)
        assert_type(client.fleet.info(), GetFleetResponse)
        assert_type("".join(piece.text for piece in client.chat("m", "hello")), str)


def errors(client: blocking.Client) -> None:
    try:
        client.jobs.get("a")
    except NotFound as error:
        assert_type(error.reason, Reason)
        assert_type(error.hint, str)
        assert_type(error.metadata, dict[str, str])
        assert_type(error.violations, tuple[FieldViolation, ...])
