"""What the trainers of a local fleet work on, told before they are stopped and afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

import grpc.aio

from tunefleet.job.v1 import job_service_pb2_grpc as job_grpc
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2 import GetJobRequest
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.process import read_token
from tunefleet_services.trainer.run_record import kept_assignments

__all__ = ["JobsAtWork", "after_stop", "before_stop"]

_CALL_SECONDS = 2.0  # a stop waits no longer for what it only tells
_MOST_NAMED = 5
_ENDED = (JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED)


class JobsAtWork:
    """The jobs that trainers keep in a state folder, whatever their project.

    Args:
        state_folder: Where.
        trainers: Their names. Those of other machines do not stop with this fleet.
    """

    def __init__(self, state_folder: Path, trainers: Collection[str]) -> None:
        self._state = state_folder
        self._trainers = trainers

    def names(self) -> list[str]:
        """Return the full names of the jobs that are held now. Reads files: run it in a thread."""
        folders = [self._state / "services" / trainer / "runs" for trainer in self._trainers]
        return list(dict.fromkeys(item.job for folder in folders for item in kept_assignments(folder)))

    async def afterwards(self, channel: grpc.aio.Channel, names: Sequence[str]) -> list[Job]:
        """Return these jobs as they stand now; one that cannot be asked for is left out.

        Args:
            channel: To the coordinator's listener for people.
            names: As `names` returned them.
        """
        stub: job_grpc.JobServiceAsyncStub = job_grpc.JobServiceStub(channel)  # pyright: ignore[reportAssignmentType]  # one class, two faces
        found = await asyncio.gather(*(self._get(stub, name) for name in names))
        return [job for job in found if job is not None]

    async def _get(self, stub: job_grpc.JobServiceAsyncStub, name: str) -> Job | None:
        try:
            token = read_token(self._state / "admin.token")
            metadata = (("authorization", f"Bearer {token}"),)
            response = await stub.GetJob(GetJobRequest(name=name), metadata=metadata, timeout=_CALL_SECONDS)
        except (grpc.aio.AioRpcError, OSError):
            return None
        return response.job


def before_stop(names: Sequence[str], seconds: float) -> str:
    """Say what runs and what becomes of it."""
    verb, whose = ("job runs", "its") if len(names) == 1 else ("jobs run", "their")
    return (
        f"{len(names)} {verb} ({_named([_short(name) for name in names])}): "
        f"saving {whose} state, for up to {seconds:.0f} s. Ctrl-C again stops at once."
    )


def after_stop(jobs: Sequence[Job]) -> list[str]:
    """Say where each of them goes on, or that it has come to its end meanwhile."""
    ended = [job for job in jobs if job.state in _ENDED]
    saved = [job for job in jobs if job not in ended and _is_saved(job)]
    others = [job for job in jobs if job not in ended and job not in saved]
    lines: list[str] = []
    if ended:
        words = [f"{_short(job.name)} {_state(job)}" for job in ended]
        lines.append(f"Ended meanwhile: {_named(words)}.")
    if saved:
        words = [f"{_short(job.name)} at step {job.checkpoint.step}" for job in saved]
        lines.append(f"Saved: {_named(words)}.")
    if others:
        words = [f"{_short(job.name)} {_goes_on(job)}" for job in others]
        lines.append(f"Not saved: {_named(words)}.")
    if saved or others:
        lines.append("They go on with the next: tunefleet up")
    return lines


def _state(job: Job) -> str:
    return JobState.Name(job.state).removeprefix("JOB_STATE_")


def _is_saved(job: Job) -> bool:
    return job.HasField("checkpoint") and job.checkpoint.step >= job.progress.step


def _goes_on(job: Job) -> str:
    return f"goes on from step {job.checkpoint.step}" if job.HasField("checkpoint") else "begins anew"


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _named(words: Sequence[str]) -> str:
    left = len(words) - _MOST_NAMED
    return ", ".join(words[:_MOST_NAMED]) + (f" and {left} more" if left > 0 else "")
