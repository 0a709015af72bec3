"""The real server process with the echo engine: shared, ended, started again, adopted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from engine_questions import ask, models
from fake_coordinator import FakeCoordinator
from service_process import EngineOnDisk, ServiceProcess, count_marked

from tunefleet.deployment.v1.deployment_pb2 import ContractState
from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment, ServiceKind
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, error_from_status
from tunefleet_core.parity import (
    AdapterRecord,
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TokensRecord,
    TopLogprobs,
    TrainServeContract,
    write_contract,
)

Deploy = Callable[..., DeploymentAssignment]
UNVERIFIED = ContractState.CONTRACT_STATE_UNVERIFIED


def record_for(base: BaseFacts) -> TrainServeContract:
    """A contract that agrees with a base; the echo engine can check none of its numbers."""
    template = "{{ messages }}"
    top = TopLogprobs(token_ids=(1, 2), logprobs=(-0.1, -2.0))
    other = TopLogprobs(token_ids=(1, 2), logprobs=(-2.0, -0.1))
    return TrainServeContract(
        base_digest=base.base_digest,
        tokenizer_digest=base.tokenizer_digest,
        template=TemplateRecord(
            text=template,
            sha256=hashlib.sha256(template.encode()).hexdigest(),
            stop_token_ids=(2,),
            frozen_time_seconds=0,
        ),
        adapter=AdapterRecord(rank=8, alpha=8.0, effective_scale=1.0, target_modules=("q_proj",)),
        precision=PrecisionRecord(dtype="float32", quantization=""),
        tokens=(TokensRecord(messages=({"role": "user", "content": "hi"},), prompt_token_ids=(1, 2)),),
        numbers=(NumbersRecord(prompt_token_ids=(1,), base=other, tuned=top),),
    )


def leave_a_socket(engine: EngineOnDisk) -> Path:
    """Leave what an engine leaves that is killed: a socket in its folder. Returns the folder."""
    folder = engine.socket.with_suffix(".d")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / str(uuid.uuid4())))
    return folder


async def test_server_says_who_it_is(coordinator: FakeCoordinator, server: ServiceProcess) -> None:
    await coordinator.until(lambda: bool(coordinator.hellos), "the server never attached")
    service = coordinator.hellos[0].service
    assert service.kind == ServiceKind.SERVICE_KIND_SERVER
    assert service.host.devices
    assert "echo" in {backend.manifest.name for backend in service.backends}


async def test_adapter_on_a_base_that_is_up_starts_no_engine(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    plain = deploy("d-base", base)
    tuned = deploy("d-tuned", base, model="mine", digest=coordinator.add_artifact(adapter))
    await coordinator.want(deployments=[plain])
    first = await coordinator.until_state("d-base", "READY")
    (engine,) = server.engines()
    pid = engine.engine_pid
    await coordinator.want(deployments=[plain, tuned])
    second = await coordinator.until_state("d-tuned", "READY")

    assert second.engine_address == first.engine_address
    assert [item.engine_pid for item in server.engines()] == [pid]
    assert await asyncio.to_thread(ask, first.engine_address, plain.engine_model, "ping") == "ping"
    answer = await asyncio.to_thread(ask, first.engine_address, tuned.engine_model, "ping")
    assert answer == f"{tuned.engine_model}: ping"
    assert (first.contract.tokens, first.contract.numbers) == (UNVERIFIED, UNVERIFIED)
    assert "no adapter to verify" in first.contract.summary
    assert "contract.json" in second.contract.summary


async def test_base_joins_the_engine_an_adapter_started(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    tuned = deploy("d-tuned", base, model="mine", digest=coordinator.add_artifact(adapter))
    await coordinator.want(deployments=[tuned])
    first = await coordinator.until_state("d-tuned", "READY")
    await coordinator.want(deployments=[tuned, deploy("d-base", base)])
    second = await coordinator.until_state("d-base", "READY")
    assert second.engine_address == first.engine_address
    assert len(server.engines()) == 1


async def test_two_bases_of_one_shape_and_two_replicas_of_one_never_share_an_engine(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, tmp_path: Path, deploy: Deploy
) -> None:
    twin = BaseFacts()
    twin.CopyFrom(base)
    twin.path = twin.model = str(tmp_path / "twin")
    Path(twin.path).mkdir()
    replica = deploy("d-one-2", base)
    replica.device_ids.append("gpu-1")
    await coordinator.want(deployments=[deploy("d-one", base), deploy("d-two", twin), replica])
    found = [await coordinator.until_state(name, "READY") for name in ("d-one", "d-two", "d-one-2")]
    assert len({item.engine_address for item in found}) == 3


async def test_deleted_deployments_leave_no_adapter_and_no_process(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    plain = deploy("d-base", base)
    tuned = deploy("d-tuned", base, model="mine", digest=coordinator.add_artifact(adapter))
    await coordinator.want(deployments=[plain, tuned])
    address = (await coordinator.until_state("d-base", "READY")).engine_address
    await coordinator.until_state("d-tuned", "READY")
    (engine,) = server.engines()

    await coordinator.want(deployments=[plain])
    await coordinator.until_state("d-tuned", "DELETED")
    assert await asyncio.to_thread(models, address) == {plain.engine_model}
    assert not list(server.state.glob("services/server/adapters/*"))

    await coordinator.want(deployments=[])
    await coordinator.until_state("d-base", "DELETED")
    assert count_marked(engine.mark) == 0
    assert not server.engines()


async def test_killed_engine_is_ready_again(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    tuned = deploy("d-tuned", base, model="mine", digest=coordinator.add_artifact(adapter))
    await coordinator.want(deployments=[tuned])
    await coordinator.until_state("d-tuned", "READY")
    (engine,) = server.engines()
    left = leave_a_socket(engine)
    os.kill(engine.engine_pid, signal.SIGKILL)
    await coordinator.until_state("d-tuned", "STARTING")
    again = await coordinator.until_state("d-tuned", "READY")
    answer = await asyncio.to_thread(ask, again.engine_address, tuned.engine_model, "ping")
    assert answer == f"{tuned.engine_model}: ping"
    assert count_marked(engine.mark) == 0
    assert not left.exists()


async def test_engine_that_keeps_dying_is_given_up_its_deployment_says_so_and_another_try_begins_anew(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, deploy: Deploy
) -> None:
    await coordinator.want(deployments=[deploy("d-base", base)])
    for _ in range(4):
        await coordinator.until_state("d-base", "READY")
        (engine,) = server.engines()
        os.kill(engine.engine_pid, signal.SIGKILL)
        await coordinator.until(
            lambda: coordinator.history[-1][1] in ("STARTING", "FAILED"),
            "the end of the engine went unnoticed",
        )
    failed = await coordinator.until_state("d-base", "FAILED")
    assert error_from_status(failed.error).reason is Reason.WORKER_LOST
    assert "exit code -9" in error_from_status(failed.error).message
    assert count_marked(engine.mark) == 0
    assert not server.engines()

    again = deploy("d-base", base)
    again.earlier_tries = 1
    coordinator.statuses.clear()
    await coordinator.want(deployments=[again])
    ready = await coordinator.until_state("d-base", "READY")
    assert ready.earlier_tries == 1
    await server.kill()
    coordinator.statuses.clear()
    await server.start("--lease-seconds", str(_ADOPTION_SECONDS))
    assert (await coordinator.until_state("d-base", "READY")).earlier_tries == 1


async def test_killed_contract_host_takes_its_engine_along_and_another_serves(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, deploy: Deploy
) -> None:
    await coordinator.want(deployments=[deploy("d-base", base)])
    await coordinator.until_state("d-base", "READY")
    (engine,) = server.engines()
    os.kill(engine.host_pid, signal.SIGKILL)
    await coordinator.until_state("d-base", "STARTING")
    await coordinator.until_state("d-base", "READY")
    assert count_marked(engine.mark) == 0
    assert len(server.engines()) == 1


# An engine waits one lease to be adopted: long enough for a Python process to start on a busy machine.
_ADOPTION_SECONDS = 8.0


@pytest.mark.parametrize("server", [_ADOPTION_SECONDS], indirect=True)
async def test_restarted_server_adopts_its_engine(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    plain = deploy("d-base", base)
    tuned = deploy("d-tuned", base, model="mine", digest=coordinator.add_artifact(adapter))
    await coordinator.want(deployments=[plain, tuned])
    before = await coordinator.until_state("d-tuned", "READY")
    await coordinator.until_state("d-base", "READY")
    (engine,) = server.engines()
    pid = engine.engine_pid
    await server.kill()
    killed = time.monotonic()
    coordinator.history.clear()
    await server.start("--lease-seconds", str(_ADOPTION_SECONDS))
    await coordinator.until(lambda: len(coordinator.hellos) == 2, "the server never came back")

    held = {status.deployment_uid: status for status in coordinator.hellos[1].deployments}
    assert held["d-tuned"].engine_address == before.engine_address
    assert held["d-tuned"].contract == before.contract
    assert {state for _, state in coordinator.history} == {"READY"}
    # Longer than a lease: an engine whose owner did not take it over would have ended by now.
    await asyncio.sleep(max(0.0, killed + _ADOPTION_SECONDS + 1 - time.monotonic()))
    assert [item.engine_pid for item in server.engines()] == [pid]
    assert {state for _, state in coordinator.history} == {"READY"}

    await coordinator.want(deployments=[])
    await coordinator.until_state("d-tuned", "DELETED")
    await coordinator.until_state("d-base", "DELETED")
    assert count_marked(engine.mark) == 0


@pytest.mark.parametrize("server", [_ADOPTION_SECONDS], indirect=True)
async def test_restarted_server_ends_an_engine_nobody_wants_any_more(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, deploy: Deploy
) -> None:
    await coordinator.want(deployments=[deploy("d-base", base)])
    await coordinator.until_state("d-base", "READY")
    (engine,) = server.engines()
    await server.kill()
    await coordinator.want(deployments=[])
    await server.start("--lease-seconds", str(_ADOPTION_SECONDS))
    await coordinator.until_state("d-base", "DELETED")
    assert count_marked(engine.mark) == 0


async def test_engine_that_died_with_its_server_is_started_anew(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, deploy: Deploy
) -> None:
    await coordinator.want(deployments=[deploy("d-base", base)])
    await coordinator.until_state("d-base", "READY")
    (engine,) = server.engines()
    left = leave_a_socket(engine)
    await server.kill()
    os.kill(engine.host_pid, signal.SIGKILL)
    await coordinator.want(deployments=[deploy("d-base", base)])
    coordinator.statuses.clear()
    await server.start("--lease-seconds", "2")
    await coordinator.until_state("d-base", "READY")
    assert count_marked(engine.mark) == 0
    assert not left.exists()


async def test_adapter_of_another_base_is_refused_and_others_serve_on(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    plain = deploy("d-base", base)
    await coordinator.want(deployments=[plain])
    address = (await coordinator.until_state("d-base", "READY")).engine_address
    write_contract(replace(record_for(base), base_digest="e" * 64), adapter)
    stray = deploy("d-stray", base, model="stray", digest=coordinator.add_artifact(adapter))
    await coordinator.want(deployments=[plain, stray])
    failed = await coordinator.until_state("d-stray", "FAILED")

    error = error_from_status(failed.error)
    assert error.reason is Reason.BASE_INVALID
    assert "eeeeeeeeeeee" in error.message
    assert "bbbbbbbbbbbb" in error.message
    assert failed.contract.numbers == ContractState.CONTRACT_STATE_REFUSED
    assert await asyncio.to_thread(models, address) == {plain.engine_model}
    assert ("d-base", "STARTING") not in coordinator.history[coordinator.history.index(("d-base", "READY")) :]


async def test_changed_template_is_refused_before_it_is_loaded(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    record = record_for(base)
    write_contract(replace(record, template=replace(record.template, text="changed")), adapter)
    await coordinator.want(
        deployments=[deploy("d-one", base, model="one", digest=coordinator.add_artifact(adapter))]
    )
    failed = await coordinator.until_state("d-one", "FAILED")
    assert error_from_status(failed.error).reason is Reason.TEMPLATE_MISMATCH
    assert failed.contract.tokens == ContractState.CONTRACT_STATE_REFUSED
    assert not server.engines()  # it was the engine's only deployment


async def test_engine_that_cannot_show_tokens_and_numbers_is_unverified_and_serves(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    write_contract(record_for(base), adapter)
    await coordinator.want(
        deployments=[deploy("d-one", base, model="one", digest=coordinator.add_artifact(adapter))]
    )
    ready = await coordinator.until_state("d-one", "READY")
    assert (ready.contract.tokens, ready.contract.numbers) == (UNVERIFIED, UNVERIFIED)
    assert "/tokenize" in ready.contract.summary
    assert "/v1/completions" in ready.contract.summary


async def test_what_cannot_be_served_says_why(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, adapter: Path, deploy: Deploy
) -> None:
    elsewhere = BaseFacts(model="m", path=str(adapter / "missing"), base_digest="d" * 64)
    (adapter / "adapter_config.json").rename(adapter / "other.json")
    await coordinator.want(
        deployments=[
            deploy("d-backend", base, engine="no-such-backend"),
            deploy("d-folder", elsewhere),
            deploy("d-manifest", base, model="gone", digest="f" * 64),
            deploy("d-adapter", base, model="bad", digest=coordinator.add_artifact(adapter)),
        ]
    )
    reasons = {
        uid: error_from_status((await coordinator.until_state(uid, "FAILED")).error).reason
        for uid in ("d-backend", "d-folder", "d-adapter")
    }
    assert reasons == {
        "d-backend": Reason.BACKEND_NOT_INSTALLED,
        "d-folder": Reason.BASE_INVALID,
        "d-adapter": Reason.BACKEND_FAILED,
    }
    await coordinator.until_state("d-manifest", "FAILED")
    await coordinator.want(deployments=[])
    for uid in (*reasons, "d-manifest"):
        await coordinator.until_state(uid, "DELETED")
    assert not server.engines()


async def test_server_that_is_stopped_ends_in_order_and_leaves_its_engine_to_the_next(
    coordinator: FakeCoordinator, server: ServiceProcess, base: BaseFacts, deploy: Deploy
) -> None:
    await coordinator.want(deployments=[deploy("d-base", base)])
    await coordinator.until_state("d-base", "READY")
    (engine,) = server.engines()
    assert await server.stop() == 0
    assert count_marked(engine.mark) == 2
