"""A new version is rolled out through a real gateway, and through the death of who decides and who routes.

One fleet as `tunefleet up` starts it, with the echo backend: it trains adapters whose engine
answers with their name, so that an answer says which version gave it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet.deployment.v1.rollout_pb2 import Rollout, RolloutPolicy, RolloutState
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import Client, connect

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

_UP = """
import sys
from pathlib import Path
from tunefleet_services.local import UpOptions, run_up
run_up(UpOptions(state_folder=Path(sys.argv[1]), lease_seconds=2.0))
"""
_USERS = [f"user-{number}" for number in range(120)]
_BACK = RolloutState.ROLLOUT_STATE_ROLLED_BACK
_BAKING = RolloutState.ROLLOUT_STATE_BAKING


class Served(ChaosFleet):
    """A fleet that serves `tickets`, version 1 of which is the model `first`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gateway = ""
        self._few = asyncio.Semaphore(4)

    async def begin(self) -> None:
        await self.spawn("up", "-u", "-c", _UP, str(self.state))
        await self.until(lambda: "Fleet ready" in self.log("up"), "the fleet is ready")
        endpoints = json.loads((self.state / "endpoints.json").read_text())
        self.user_address, self.gateway = endpoints["user"], endpoints["gateway"]
        async with self.connected() as client:
            models = {"first": {}, "second": {}, "third": {}, "broken": {"refuses": True}}
            jobs = [
                await client.jobs.create(echo_job(steps=2, **options), job_id=name)
                for name, options in models.items()
            ]
            for job in jobs:
                assert (await client.jobs.wait(job.name)).state == JobState.JOB_STATE_SUCCEEDED
            spec = DeploymentSpec(model="models/first", engine="echo")
            await client.deployments.create(spec, deployment_id="tickets")
            await client.deployments.wait("tickets", deadline_seconds=60)
        await self.until(self._is_routed, "the gateway has the route")

    def connected(self) -> Any:
        return connect(state_folder=self.state)

    async def ask(self, user: str) -> tuple[int, str]:
        """Return status and the model that answered."""
        async with (
            self._few,  # the engine has no long queue of connections
            aiohttp.ClientSession() as session,
            self.asking(session, user, "hello") as answer,
        ):
            body = await answer.json()
            if answer.status != 200:
                return answer.status, ""
            text = body["choices"][0]["message"]["content"]
            return answer.status, text.partition("@")[0]

    def asking(self, session: aiohttp.ClientSession, user: str, text: str, *, stream: bool = False) -> Any:
        messages = [{"role": "user", "content": text}]
        body = {"model": "tickets", "user": user, "messages": messages, "stream": stream}
        headers = {"Authorization": f"Bearer {self.token('admin')}"}
        return session.post(f"{self.gateway}/v1/chat/completions", json=body, headers=headers)

    async def ask_all(self) -> dict[str, str]:
        """Return the model that answers each user."""
        answers = await asyncio.gather(*(self.ask(user) for user in _USERS))
        assert {status for status, _ in answers} == {200}
        return {user: model for user, (_, model) in zip(_USERS, answers, strict=True)}

    async def rollout(self, client: Client) -> Rollout:
        found = await client.deployments.rollout("tickets")
        assert found is not None
        return found

    async def until_rollout(self, client: Client, state: RolloutState.ValueType, step: int = 0) -> Rollout:
        async def is_so() -> bool:
            found = await self.rollout(client)
            return found.state == state and found.step >= step

        await self.until(is_so, f"the roll-out is {RolloutState.Name(state)} at step {step}")
        return await self.rollout(client)

    async def until_answered_by(self, *models: str) -> dict[str, str]:
        """Wait until the gateway has the new shares, and return who answers each user."""
        found: dict[str, str] = {}

        async def is_so() -> bool:
            nonlocal found
            found = await self.ask_all()
            return set(found.values()) == set(models)

        await self.until(is_so, f"answers come from {models}")
        return found

    def child(self, word: str) -> int:
        """Return the process id of a service that `up` started."""
        return next(pid for pid, line in self.processes() if f"tunefleet_{word}" in line)

    async def _is_routed(self) -> bool:
        try:
            return (await self.ask("anybody"))[0] == 200
        except aiohttp.ClientError:
            return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    fleet = Served(root)
    try:
        await fleet.begin()
        yield fleet
    finally:
        await fleet.close()
        shutil.rmtree(root, ignore_errors=True)


async def _back_to_first(client: Client, fleet: Served) -> None:
    """End what a test began: one version, `first`, has everything."""
    found = await client.deployments.rollout("tickets")
    if found is not None and found.state == _BAKING:
        await client.deployments.roll_back("tickets")
    await fleet.until_answered_by("first")


async def test_shares_stickiness_a_restart_of_both_deciders_and_an_instant_way_back(served: Served) -> None:
    async with served.connected() as client:
        policy = RolloutPolicy(steps=[20, 60], min_requests=0)
        begun = await client.deployments.roll_out("tickets", "models/second", policy)
        assert (begun.current.weight, begun.candidate.weight, begun.candidate.number) == (100, 0, 2)
        loaded = await served.until_rollout(client, _BAKING)
        assert loaded.candidate.service == loaded.current.service
        engines = [line for _, line in served.processes() if "tunefleet_echo.server" in line]
        assert len(engines) == 1, "both versions live on one engine"

        first = await served.until_answered_by("first", "second")
        share = Counter(first.values())["second"] / len(_USERS)
        assert 0.08 <= share <= 0.34, share  # 20 % of 120 users, three standard deviations
        assert await served.ask_all() == first, "nobody alternates"

        os.kill(served.child("coordinator"), signal.SIGKILL)
        assert await served.ask_all() == first, "the gateway goes on without the coordinator"
        await served.until(lambda: _is_up(served), "the coordinator is back")
        os.kill(served.child("services.gateway"), signal.SIGKILL)
        await served.until(served._is_routed, "the gateway is back")
        assert await served.until_answered_by("first", "second") == first

        await client.deployments.promote("tickets")

        async def has_grown() -> bool:
            return Counter((await served.ask_all()).values())["second"] > Counter(first.values())["second"]

        await served.until(has_grown, "more users have the second version")
        later = await served.ask_all()
        assert all(later[user] == "second" for user in _USERS if first[user] == "second")

        await client.deployments.roll_back("tickets", reason="It was a test.")
        await served.until_answered_by("first")
        kinds = await _history(client)
        assert kinds[-6:-1].count("rollout_step") == 2
        assert "rollout_ended" in kinds


@pytest.mark.slow
async def test_a_stream_in_flight_is_finished_before_its_version_is_taken_down(served: Served) -> None:
    async with served.connected() as client, aiohttp.ClientSession() as session:
        await _back_to_first(client, served)
        policy = RolloutPolicy(steps=[50], min_requests=0)
        await client.deployments.roll_out("tickets", "models/third", policy)
        await served.until_rollout(client, _BAKING)
        answers = await served.until_answered_by("first", "third")
        user = next(user for user, model in answers.items() if model == "third")
        # Far more than the sockets between here and the engine hold: it waits until it is read.
        text = "word " * 100_000
        async with served.asking(session, user, text, stream=True) as answer:
            begun = await answer.content.readany()
            await client.deployments.roll_back("tickets")
            await served.until_answered_by("first")
            candidate = (await served.rollout(client)).candidate
            assert candidate.state == DeploymentState.DEPLOYMENT_STATE_DRAINING
            rest = await answer.read()
        whole = begun + rest
        assert whole.endswith(b"data: [DONE]\n\n")
        assert whole.count(b'"content": " word"') == 100_000

        async def is_gone() -> bool:
            found = await served.rollout(client)
            return found.candidate.state == DeploymentState.DEPLOYMENT_STATE_DELETED

        await served.until(is_gone, "the version is taken down when the stream has ended")


async def test_a_version_whose_requests_fail_is_rolled_back_by_itself(served: Served) -> None:
    async with served.connected() as client:
        await _back_to_first(client, served)
        policy = RolloutPolicy(steps=[50], min_requests=10)
        policy.bake.seconds = 600
        await client.deployments.roll_out("tickets", "models/broken", policy)
        await served.until_rollout(client, _BAKING)

        async def is_back() -> bool:
            await asyncio.gather(*(served.ask(user) for user in _USERS))
            return (await served.rollout(client)).state == _BACK

        await served.until(is_back, "it is rolled back")
        ended = await served.rollout(client)
        assert "requests failed (100.0%)" in ended.reason
        assert ended.candidate.counts.errors >= 10
        assert ended.current.counts.errors == 0
        await served.until_answered_by("first")


@pytest.mark.slow
async def test_steps_that_bake_follow_by_themselves_and_the_old_version_goes(served: Served) -> None:
    async with served.connected() as client:
        await _back_to_first(client, served)
        policy = RolloutPolicy(steps=[50], min_requests=1, evaluate_job="second")
        policy.bake.FromMilliseconds(200)
        await client.deployments.roll_out("tickets", "models/second", policy)

        async def has_ended() -> bool:
            await asyncio.gather(*(served.ask(user) for user in _USERS[:20]))
            return (await served.rollout(client)).state == RolloutState.ROLLOUT_STATE_SUCCEEDED

        await served.until(has_ended, "the roll-out has ended")
        await served.until_answered_by("second")
        deployment = await client.deployments.get("tickets")
        assert deployment.spec.model == "models/second"
        assert (await client.deployments.list())[0].version == deployment.version
        old = (await served.rollout(client)).current
        assert old.number == 1


async def _is_up(fleet: Served) -> bool:
    try:
        async with fleet.connected() as client:
            services = await client.fleet.list()
            return all(item.state == 1 for item in services)
    except Exception:  # whatever says that it is not there yet
        return False


async def _history(client: Client) -> list[str]:
    deployment = await client.deployments.get("tickets")
    kinds: list[str] = []
    async with aclosing(client.deployments.watch("tickets")) as changes:
        async for change in changes:
            if change.event is not None:
                kinds.append(str(change.event.WhichOneof("payload")))
                if change.event.sequence >= deployment.last_sequence:
                    break
    return kinds
