"""`/v1/fine_tuning/jobs`: training jobs of the project, as OpenAI's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from tunefleet.job.v1 import job_service_pb2 as pb
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import CheckpointRef
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.gateway.fine_tuning.calls import RESOLVE_SECONDS, Session
from tunefleet_services.gateway.fine_tuning.events import checkpoint_document, event_document
from tunefleet_services.gateway.fine_tuning.job_object import base_of, is_fine_tuning, job_document, job_id_of
from tunefleet_services.gateway.fine_tuning.job_spec import job_spec, learning_rate_multiplier
from tunefleet_services.gateway.fine_tuning.pages import behind, limit_of, list_document
from tunefleet_services.gateway.fine_tuning.requests import request_id_of

__all__ = ["JobPages"]

_PAGE = 100
_EVENTS_AT_A_TIME = 500


class JobPages:
    """Handles the paths of jobs.

    Args:
        session: Gives the calls of who sent a request.
        read: Reads a request's JSON object.
    """

    def __init__(
        self,
        session: Callable[[web.Request], Session],
        read: Callable[[web.Request], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._session = session
        self._read = read

    async def create(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/fine_tuning/jobs`."""
        session = self._session(request)
        spec = job_spec(await self._read(request))
        await _set_learning_rate(session, spec)
        asked = pb.CreateJobRequest(request_id=request_id_of(request), parent=session.parent, spec=spec)
        made = await session.call(session.jobs.CreateJob, asked, seconds=RESOLVE_SECONDS)
        return web.json_response(job_document(made.job))

    async def list(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/fine_tuning/jobs`, newest first."""
        session = self._session(request)
        labels = {
            name[len("metadata[") : -1]: value
            for name, value in request.query.items()
            if name.startswith("metadata[") and name.endswith("]")
        }

        async def page(token: str) -> tuple[Sequence[Job], str]:
            asked = pb.ListJobsRequest(
                parent=session.parent, page_size=_PAGE, page_token=token, labels=labels
            )
            found = await session.call(session.jobs.ListJobs, asked)
            return found.jobs, found.next_page_token

        found, has_more = await behind(
            page,
            is_wanted=is_fine_tuning,
            id_of=job_id_of,
            after=request.query.get("after", ""),
            limit=limit_of(request, usual=20, most=100),
        )
        return web.json_response(list_document([job_document(job) for job in found], has_more))

    async def get(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/fine_tuning/jobs/{job}`."""
        return web.json_response(job_document(await self._job(request)))

    async def cancel(self, request: web.Request) -> web.Response:
        """Answer `POST …/cancel`. The job is cancelled when its processes are proven gone."""
        name = (await self._job(request)).name
        session = self._session(request)
        asked = pb.CancelJobRequest(request_id=request_id_of(request), name=name)
        return web.json_response(job_document((await session.call(session.jobs.CancelJob, asked)).job))

    async def pause(self, request: web.Request) -> web.Response:
        """Answer `POST …/pause`: the exact state is kept, and the device given back."""
        name = (await self._job(request)).name
        session = self._session(request)
        asked = pb.PauseJobRequest(request_id=request_id_of(request), name=name)
        return web.json_response(job_document((await session.call(session.jobs.PauseJob, asked)).job))

    async def resume(self, request: web.Request) -> web.Response:
        """Answer `POST …/resume`."""
        name = (await self._job(request)).name
        session = self._session(request)
        asked = pb.ResumeJobRequest(request_id=request_id_of(request), name=name)
        return web.json_response(job_document((await session.call(session.jobs.ResumeJob, asked)).job))

    async def events(self, request: web.Request) -> web.Response:
        """Answer `GET …/events`, newest first. Read backwards, as far as the page needs."""
        job = await self._job(request)
        limit = limit_of(request, usual=20, most=1000)
        before = _sequence_of(request.query.get("after", ""), job.last_sequence + 1)
        found: list[dict[str, object]] = []
        while before > 1 and len(found) <= limit:
            start = max(0, before - 1 - _EVENTS_AT_A_TIME)
            events = await self._session(request).events(job.name, start, before - 1)
            shown = (event_document(event) for event in reversed(events))
            found += [document for document in shown if document is not None]
            before = start + 1
        return web.json_response(list_document(found[:limit], len(found) > limit))

    async def checkpoints(self, request: web.Request) -> web.Response:
        """Answer `GET …/checkpoints`, newest first."""
        job, session = await self._job(request), self._session(request)

        async def page(token: str) -> tuple[Sequence[CheckpointRef], str]:
            asked = pb.ListCheckpointsRequest(parent=job.name, page_size=_PAGE, page_token=token)
            found = await session.call(session.jobs.ListCheckpoints, asked)
            return found.checkpoints, found.next_page_token

        found, has_more = await behind(
            page,
            is_wanted=lambda _: True,
            id_of=lambda item: f"ftckpt-{item.manifest_digest[:24]}",
            after=request.query.get("after", ""),
            limit=limit_of(request, usual=10, most=100),
        )
        events: Sequence[JobEvent] = ()
        if found and job.last_sequence:
            events = await session.events(job.name, 0, job.last_sequence)
        documents = [
            checkpoint_document(
                item, job_id=job_id_of(job), project=session.project, base=base_of(job), events=events
            )
            for item in found
        ]
        return web.json_response(list_document(documents, has_more))

    async def _job(self, request: web.Request) -> Job:
        session = self._session(request)
        job_id = request.match_info["job"]
        job = (
            await session.call(session.jobs.GetJob, pb.GetJobRequest(name=session.name("jobs", job_id)))
        ).job
        if not is_fine_tuning(job):
            raise TunefleetError(
                Reason.JOB_NOT_FOUND,
                f"Job '{job_id}' trains nothing.",
                hint="GET /v1/fine_tuning/jobs lists those that do.",
            )
        return job


async def _set_learning_rate(session: Session, spec: JobSpec) -> None:
    """Multiply the learning rate that would be taken otherwise."""
    multiplier = learning_rate_multiplier(spec)
    if multiplier is None:
        return
    asked = pb.PlanJobRequest(parent=session.parent, spec=spec)
    planned = await session.call(session.jobs.PlanJob, asked, seconds=RESOLVE_SECONDS)
    usual = planned.resolved_spec.spec.train.optim.learning_rate
    spec.train.optim.learning_rate = usual * multiplier


def _sequence_of(event_id: str, otherwise: int) -> int:
    """Return the sequence of an event's id; Raises FIELD_INVALID."""
    number = event_id.removeprefix("ftevent-")
    if not event_id:
        return otherwise
    if number == event_id or not (number.isascii() and number.isdecimal()):
        raise TunefleetError.field("after", f"'{event_id[:64]}' is no id of an event")
    return min(int(number[:18]), otherwise)
