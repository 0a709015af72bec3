"""The echo backend against the real contract host, over its unix socket."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.inspect_pb2 import AuditOrder
from tunefleet.backend.v1.run_pb2 import Run, RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.environments import host_environment
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import error_from_rpc
from tunefleet_core.worker.marker import end_marked, marked_processes
from tunefleet_echo.rank import final_state
from tunefleet_services.hosts import Host, start_host

SEED = 7


@asynccontextmanager
async def echo_host(folder: Path) -> AsyncGenerator[Host]:
    host = await start_host("echo", host_environment(), log_folder=folder, lease_seconds=30, warm=True)
    try:
        yield host
    finally:
        await asyncio.to_thread(end_marked, host.record.mark)
        await host.close()
        assert marked_processes(host.record.mark) == []


def order(folder: Path, name: str, *, steps: int = 20, **options: object) -> RunOrder:
    made = RunOrder(run=name, attempt=1, work_dir=str(folder / name))
    train = made.resolved_spec.spec.train
    train.method.sft.SetInParent()
    train.adapter.lora.rank = 8
    train.seed = SEED
    train.optim.max_steps = steps
    train.checkpoint.every_steps = 5
    made.resolved_spec.spec.backend_options.update({"step_seconds": 0.001, **options})
    return made


async def events_of(host: Host, run: str, after: int = 0) -> list[JobEvent]:
    request = pb.StreamRunEventsRequest(run=run, after_source_sequence=after)
    return [event async for response in host.stub.StreamRunEvents(request) for event in response.events]


async def ended(host: Host, run: str) -> Run:
    await events_of(host, run)
    return (await host.stub.GetRun(pb.GetRunRequest(run=run))).run


def start(made: RunOrder) -> pb.StartRunRequest:
    return pb.StartRunRequest(request_id=str(uuid.uuid4()), order=made)


async def test_a_run_ends_in_the_state_that_its_seed_decides(tmp_path: Path) -> None:
    async with echo_host(tmp_path) as host:
        await host.stub.StartRun(start(order(tmp_path, "run-1")))
        run = await ended(host, "run-1")
    assert run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    content = json.loads((tmp_path / "run-1/output/state.json").read_text())
    assert content == {"step": 20, "state": final_state(SEED, 20)}
    assert [saved.step for saved in run.checkpoints] == [5, 10, 15]


async def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    async with echo_host(tmp_path) as host:
        await host.stub.StartRun(start(order(tmp_path, "first", fail_at_step=13)))
        failed = await ended(host, "first")
        again = order(tmp_path, "second")
        again.resume_from = str(tmp_path / "first" / failed.checkpoints[-1].path)
        await host.stub.StartRun(start(again))
        run = await ended(host, "second")
    assert failed.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    assert run.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
    content = json.loads((tmp_path / "second/output/state.json").read_text())
    assert content["state"] == final_state(SEED, 20)


async def test_a_run_begins_with_a_preflight_unless_it_is_declined(tmp_path: Path) -> None:
    async with echo_host(tmp_path) as host:
        declined = order(tmp_path, "declined", steps=5)
        declined.resolved_spec.spec.train.preflight = False
        found: list[list[int]] = []
        for made in (order(tmp_path, "tried", steps=5), declined):
            await host.stub.StartRun(start(made))
            kinds = [event.WhichOneof("payload") for event in await events_of(host, made.run)]
            found.append([index for index, kind in enumerate(kinds) if kind == "preflight"])
            if found[-1]:
                assert found[-1][0] < kinds.index("metrics")
    assert [len(item) for item in found] == [1, 0]


async def test_an_exported_model_follows_from_its_adapter(tmp_path: Path) -> None:
    written: list[bytes] = []
    async with echo_host(tmp_path) as host:
        await host.stub.StartRun(start(order(tmp_path, "adapter", steps=5)))
        await ended(host, "adapter")
        for name in ("once", "again"):
            made = RunOrder(run=name, attempt=1, work_dir=str(tmp_path / name))
            made.resolved_spec.spec.export.merge.SetInParent()
            made.adapter_dir = str(tmp_path / "adapter" / "output")
            await host.stub.StartRun(start(made))
            run = await ended(host, name)
            assert run.output.kind == ArtifactKind.ARTIFACT_KIND_MODEL, run.error
            written.append((tmp_path / name / "output" / "model.json").read_bytes())
    assert written[0] == written[1]


async def test_starting_a_run_again_is_the_same_run(tmp_path: Path) -> None:
    async with echo_host(tmp_path) as host:
        for _ in range(3):
            await host.stub.StartRun(start(order(tmp_path, "run-1", steps=5)))
        events = await events_of(host, "run-1")
    assert [event.source_sequence for event in events] == list(range(1, len(events) + 1))
    assert sum(event.WhichOneof("payload") == "metrics" for event in events) == 5


async def test_events_replay_from_any_sequence(tmp_path: Path) -> None:
    async with echo_host(tmp_path) as host:
        await host.stub.StartRun(start(order(tmp_path, "run-1", steps=5)))
        whole = await events_of(host, "run-1")
        assert await events_of(host, "run-1", after=4) == whole[4:]


async def test_a_cancelled_run_ends_and_may_be_cancelled_again(tmp_path: Path) -> None:
    async with echo_host(tmp_path) as host:
        await host.stub.StartRun(start(order(tmp_path, "run-1", steps=10_000)))
        stop = pb.StopRunRequest(run="run-1", mode=StopMode.STOP_MODE_CANCEL)
        outcomes = [(await host.stub.StopRun(stop, timeout=10)).run.outcome for _ in range(2)]
    assert outcomes == [AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED] * 2


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda host: host.stub.GetRun(pb.GetRunRequest(run="nobody")), Reason.JOB_NOT_FOUND),
        (lambda host: host.stub.StopRun(pb.StopRunRequest(run="nobody")), Reason.JOB_NOT_FOUND),
        (lambda host: host.stub.StartRun(pb.StartRunRequest()), Reason.FIELD_INVALID),
        (lambda host: host.stub.GetEngine(pb.GetEngineRequest(engine="x")), Reason.DEPLOYMENT_NOT_FOUND),
        (
            lambda host: host.stub.AuditData(pb.AuditDataRequest(order=AuditOrder())),
            Reason.CAPABILITY_UNSUPPORTED,
        ),
    ],
)
async def test_what_cannot_be_done_is_answered_with_its_reason(
    tmp_path: Path, call: object, reason: Reason
) -> None:
    async with echo_host(tmp_path) as host:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(host)  # type: ignore[operator]
    error: TunefleetError = error_from_rpc(caught.value, "The host")
    assert error.reason is reason
