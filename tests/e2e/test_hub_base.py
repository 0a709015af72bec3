"""A base named by its Hub id: planned at once, fetched before the first step, served from the same files."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from local_fleet import BASE, LocalFleet, missing_backend, tickets_job

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "hub"))

from fake_hub import COMMIT, FakeHub, serving

from tunefleet.deployment.v1.deployment_pb2 import ContractState, DeploymentSpec
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet.job.v1.state_pb2 import JobState

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,  # trains and starts an engine; that a run fetches first is proven fast with echo
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]

_PADDING_BYTES = 80 << 20


def _larger_than_a_plan_fetches(folder: Path) -> Path:
    """Return the tiny base with a second shard of weights that no layer uses."""
    shutil.copytree(BASE, folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    padding = {"dtype": "U8", "shape": [_PADDING_BYTES], "data_offsets": [0, _PADDING_BYTES]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "padding.weight": padding}).encode()
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(len(header).to_bytes(8, "little") + header + bytes(_PADDING_BYTES))
    first = (folder / "model-00001-of-00002.safetensors").read_bytes()
    names = json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])
    names.pop("__metadata__", None)
    weight_map = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    weight_map["padding.weight"] = shard.name
    index = {"metadata": {"total_size": len(first) + _PADDING_BYTES}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    folder = tmp_path_factory.mktemp("hub")
    models = {"org/tickets": _larger_than_a_plan_fetches(folder / "larger")}
    with serving(FakeHub(models=models)) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(hub: FakeHub) -> AsyncIterator[LocalFleet]:
    """A running fleet whose Hub is the fake one."""
    if missing := missing_backend("trl", "embedded"):
        pytest.skip(missing)
    root = Path(tempfile.mkdtemp(prefix="tf-e2e-", dir="/tmp"))
    running = LocalFleet(root, extra={"HF_ENDPOINT": hub.address, "HF_HOME": str(root / "hf")})
    try:
        await running.start()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)


async def test_a_hub_base_is_fetched_trained_on_and_served(fleet: LocalFleet, hub: FakeHub) -> None:
    spec = tickets_job("train.base.model=org/tickets", max_steps=6)
    async with fleet.client() as client:
        plan = await client.jobs.plan(spec)
        assert plan.resolved_spec.base.commit == COMMIT
        shards = [size for name, size in hub.sent.items() if name.endswith(".safetensors")]
        assert sum(shards) < 8 << 20, "planning fetched weights"

        ended, events = await fleet.finish(client, (await client.jobs.create(spec)).name)
        assert ended.state == JobState.JOB_STATE_SUCCEEDED, ended.error
        phases = [event.phase_changed.phase for event in events if event.HasField("phase_changed")]
        assert phases.index(RunPhase.RUN_PHASE_DOWNLOADING) < phases.index(RunPhase.RUN_PHASE_WORKING)
        last = [event.download for event in events if event.HasField("download")][-1]
        assert last.done_bytes == last.total_bytes > _PADDING_BYTES

        hub.is_down = True  # everything is here now
        try:
            again, events = await fleet.finish(client, (await client.jobs.create(spec)).name)
            assert again.state == JobState.JOB_STATE_SUCCEEDED, again.error
            assert not any(event.HasField("download") for event in events)
            await client.deployments.create(DeploymentSpec(model=ended.result.model), deployment_id="tuned")
            served = await client.deployments.wait("tuned")
        finally:
            hub.is_down = False
        assert served.contract.tokens == ContractState.CONTRACT_STATE_VERIFIED
        assert served.contract.numbers == ContractState.CONTRACT_STATE_VERIFIED
