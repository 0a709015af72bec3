"""A request that arrives again, however often, is carried out once."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from chaos_fleet import ChaosFleet, echo_job

from tunefleet_core.errors import Reason, TunefleetError

pytestmark = [pytest.mark.chaos]

_TIMES = 10


@pytest.mark.parametrize(
    "at_once",
    [pytest.param(True, id="at-once"), pytest.param(False, id="one-by-one", marks=pytest.mark.slow)],
)
async def test_same_create_sent_ten_times_is_one_job(fleet: ChaosFleet, at_once: bool) -> None:
    request_id = str(uuid.uuid4())
    async with fleet.client() as client:

        async def create() -> str:
            return (await client.jobs.create(echo_job(), request_id=request_id)).uid

        if at_once:
            uids = await asyncio.gather(*(create() for _ in range(_TIMES)))
        else:
            uids = [await create() for _ in range(_TIMES)]
        jobs = await client.jobs.list()
        assert {job.uid for job in jobs} == set(uids)
        assert len(jobs) == 1
        ended, events = await fleet.finish(client, jobs[0].name)
    await fleet.assert_succeeded(ended, events)


async def test_create_repeated_across_a_killed_coordinator_is_one_job(fleet: ChaosFleet) -> None:
    request_id = str(uuid.uuid4())
    async with fleet.client(tries=200) as client:  # beside others a coordinator takes seconds to start
        first = await client.jobs.create(echo_job(), request_id=request_id)
        await fleet.kill("coordinator")
        repeated, _ = await asyncio.gather(
            client.jobs.create(echo_job(), request_id=request_id), fleet.start_coordinator()
        )
        assert repeated.uid == first.uid
        assert len(await client.jobs.list()) == 1
        ended, events = await fleet.finish(client, first.name)
    await fleet.assert_succeeded(ended, events)


@pytest.mark.slow  # starts and ends services for one answer more
async def test_what_was_granted_is_answered_though_it_would_not_be_granted_now(fleet: ChaosFleet) -> None:
    request_id = str(uuid.uuid4())
    async with fleet.client() as client:
        first = await client.jobs.create(echo_job(), request_id=request_id)
        ended, events = await fleet.finish(client, first.name)
        await fleet.stop("trainer")
        await fleet.kill("coordinator")  # and with it whatever it remembered of the request
        await fleet.start_coordinator()
        repeated = await client.jobs.create(echo_job(), request_id=request_id)
        assert (repeated.uid, repeated.state) == (first.uid, ended.state)
        with pytest.raises(TunefleetError) as raised:
            await client.jobs.create(echo_job(seed=2), request_id=request_id)
        assert raised.value.reason is Reason.REQUEST_ID_REUSED
        with pytest.raises(TunefleetError) as raised:
            await client.jobs.create(echo_job())
        assert raised.value.reason is Reason.UNAVAILABLE, "nobody could run it"
    await fleet.assert_succeeded(ended, events)


@pytest.mark.slow  # a fleet for one refusal
async def test_same_request_id_with_another_body_is_refused(fleet: ChaosFleet) -> None:
    request_id = str(uuid.uuid4())
    async with fleet.client() as client:
        first = await client.jobs.create(echo_job(seed=1), request_id=request_id)
        with pytest.raises(TunefleetError) as raised:
            await client.jobs.create(echo_job(seed=2), request_id=request_id)
        assert raised.value.reason is Reason.REQUEST_ID_REUSED
        assert raised.value.code == "INVALID_ARGUMENT"
        assert raised.value.hint
        assert [job.uid for job in await client.jobs.list()] == [first.uid]
        await fleet.finish(client, first.name)


@pytest.mark.slow  # the same of another call
async def test_same_cancel_sent_ten_times_cancels_once(fleet: ChaosFleet) -> None:
    request_id = str(uuid.uuid4())
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=1000))
        await asyncio.gather(*(client.jobs.cancel(job.name, request_id=request_id) for _ in range(_TIMES)))
        _, events = await fleet.finish(client, job.name)
        again = await client.jobs.cancel(job.name, request_id=request_id)
        assert again.etag == (await client.jobs.get(job.name)).etag
    reasons = [event.state_changed.reason for event in events if event.HasField("state_changed")]
    assert reasons.count("Cancel was requested.") <= 1
