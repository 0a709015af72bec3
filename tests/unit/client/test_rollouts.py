"""Roll-outs as the SDK asks for them and follows them."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from tunefleet.deployment.v1.deployment_service_pb2 import RollOutDeploymentRequest
from tunefleet.deployment.v1.rollout_pb2 import RolloutPolicy, RolloutState
from tunefleet_client import FailedPrecondition, NotFound, connect
from tunefleet_client.testing import FakeCoordinator


async def test_a_roll_out_goes_forward_and_ends(fake: FakeCoordinator) -> None:
    async with connect(fake.address, fake.token) as client:
        await client.deployments.create("models/first", deployment_id="tickets")
        assert await client.deployments.rollout("tickets") is None
        policy = RolloutPolicy(steps=[5, 25, 100], evaluate_job="scores")
        begun = await client.deployments.roll_out("tickets", "models/second", policy)
        assert (begun.current.weight, begun.candidate.weight) == (95, 5)
        assert (await client.deployments.promote("tickets")).candidate.weight == 25
        assert (await client.deployments.promote("tickets", to_last_step=True)).candidate.weight == 100
        ended = await client.deployments.promote("tickets")
        assert ended.state == RolloutState.ROLLOUT_STATE_SUCCEEDED
        with pytest.raises(FailedPrecondition):
            await client.deployments.roll_back("tickets")
    (asked,) = (item for item in fake.requests if isinstance(item, RollOutDeploymentRequest))
    assert asked.policy.evaluate_job == "projects/default/jobs/scores", "by its short name"
    assert policy.evaluate_job == "scores", "the caller's own message is left alone"


async def test_a_watch_hands_out_every_event_once_and_ends_when_the_deployment_is_gone(
    fake: FakeCoordinator,
) -> None:
    async with connect(fake.address, fake.token) as client:
        await client.deployments.create("models/first", deployment_id="tickets")
        await client.deployments.roll_out("tickets", "models/second")
        await client.deployments.roll_back("tickets", reason="It was worse.")
        async with aclosing(client.deployments.watch("tickets", 1)) as changes:
            seen = [change async for change in changes]
        with pytest.raises(NotFound):
            await anext(client.deployments.watch("nothing"))
    events = [change.event for change in seen if change.event is not None]
    assert [event.sequence for event in events] == [2, 3]
    assert events[-1].rollout_ended.reason == "It was worse."
    assert seen[0].snapshot is not None
    assert seen[-1].snapshot is not None
