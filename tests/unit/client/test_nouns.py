"""Each noun's methods send what they say and hand back what came."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest

from tunefleet.catalog.v1.catalog_service_pb2 import Backend, Family, Format
from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec, DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind, ServiceState
from tunefleet.inference.v1.inference_service_pb2 import ChatRequest
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2 import CreateJobRequest, RetryJobRequest, UpdateJobRequest
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet.model.v1.model_pb2 import Model
from tunefleet.type.v1.conversation_pb2 import ContentPart, Message
from tunefleet_client import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    connect,
)
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core.errors import Reason, TunefleetError, status_from_error

NAME = "projects/default/jobs/a"
TRAIN = {"base": {"model": "x/y"}, "data": {"train": [{"source": "rows/a.jsonl"}]}, "method": {"sft": {}}}
JOB_FILE = """
name: tickets
train:
  base: {model: x/y}
  data: {train: [{source: rows/a.jsonl}]}
  method: {sft: {}}
"""


def add_job(fake: FakeCoordinator, state: JobState.ValueType, **labels: str) -> None:
    fake.jobs[NAME] = Job(name=NAME, state=state, labels=labels)


def last(fake: FakeCoordinator, kind: type) -> object:
    found = [request for request in fake.requests if isinstance(request, kind)]
    return found[-1]


async def test_a_job_is_created_from_a_spec_a_mapping_or_a_file(
    fake: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    path = tmp_path / "jobs" / "job.yaml"
    path.write_text(JOB_FILE)
    monkeypatch.chdir(tmp_path)
    async with connect(fake.address, fake.token) as client:
        of_file = await client.jobs.create(path, job_id="one")
        of_text = await client.jobs.create("jobs/job.yaml", job_id="two")
        of_mapping = await client.jobs.create({"name": "tickets", "train": TRAIN}, job_id="three")
        of_spec = await client.jobs.create(of_file.spec, job_id="four")
    # As on the command line: from the file's folder, or from the current one.
    assert of_file.spec.train.data.train[0].source == str(tmp_path / "jobs/rows/a.jsonl")
    assert of_mapping.spec.train.data.train[0].source == str(tmp_path / "rows/a.jsonl")
    assert of_file.spec == of_text.spec == of_spec.spec


async def test_a_mapping_may_hold_paths_and_mappings_of_any_kind(
    fake: FakeCoordinator, tmp_path: Path
) -> None:
    from types import MappingProxyType

    train = {**TRAIN, "data": MappingProxyType({"train": [{"source": tmp_path / "a.jsonl"}]})}
    async with connect(fake.address, fake.token) as client:
        job = await client.jobs.create({"name": "tickets", "train": train})
    assert job.spec.train.data.train[0].source == str(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"optim": {"epochs": 0}}, "train.optim.epochs", "greater than 0"),
        ({"optim": {"epoch": 1}}, "train.optim.epoch", "epochs"),
        ({"optim": {"learning_rate": "2e-4"}}, "train.optim.learning_rate", "without quotes"),
    ],
)
async def test_a_wrong_field_of_a_mapping_is_named_before_anything_is_sent(
    fake: FakeCoordinator, change: dict[str, object], field: str, words: str
) -> None:
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.jobs.create({"name": "tickets", "train": {**TRAIN, **change}})
    error = caught.value
    assert field in [violation.field for violation in error.violations]
    assert words in error.message
    assert not error.message.startswith("job:")  # a mapping has no lines
    assert field in error.hint
    assert fake.requests == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", object()])
async def test_a_value_that_no_job_file_can_hold_is_refused(fake: FakeCoordinator, value: object) -> None:
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(InvalidArgument, match="no job file can hold"):
            await client.jobs.create({"name": "tickets", "train": {**TRAIN, "seed": value}})


async def test_a_missing_job_file_is_named(fake: FakeCoordinator, tmp_path: Path) -> None:
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(InvalidArgument, match="no such file"):
            await client.jobs.plan(tmp_path / "none.yaml")


async def test_validate_only_keeps_nothing(fake: FakeCoordinator) -> None:
    async with connect(fake.address, fake.token) as client:
        job = await client.jobs.create(JobSpec(name="a"), validate_only=True)
        deployment = await client.deployments.create("models/m", validate_only=True)
    assert (job.name, deployment.name) == ("", "")
    assert fake.jobs == {}
    assert fake.deployments == {}
    request = last(fake, CreateJobRequest)
    assert isinstance(request, CreateJobRequest)
    assert request.validate_only


async def test_a_job_is_paused_resumed_and_retried(fake: FakeCoordinator) -> None:
    add_job(fake, JobState.JOB_STATE_RUNNING)
    async with connect(fake.address, fake.token) as client:
        assert (await client.jobs.pause("a")).state == JobState.JOB_STATE_PAUSING
        await fake.move(NAME, JobState.JOB_STATE_PAUSED)
        assert (await client.jobs.pause("a")).state == JobState.JOB_STATE_PAUSED
        assert (await client.jobs.resume("a")).state == JobState.JOB_STATE_PENDING
        with pytest.raises(FailedPrecondition):
            await client.jobs.retry("a")
        await fake.move(NAME, JobState.JOB_STATE_FAILED)
        assert (await client.jobs.retry("a", from_start=True)).state == JobState.JOB_STATE_PENDING
    request = last(fake, RetryJobRequest)
    assert isinstance(request, RetryJobRequest)
    assert request.from_start


async def test_labels_and_priority_are_changed_alone_or_together(fake: FakeCoordinator) -> None:
    add_job(fake, JobState.JOB_STATE_PENDING, team="a", kind="b")
    masks: list[list[str]] = []
    async with connect(fake.address, fake.token) as client:
        for labels, priority in ((None, 5), ({"team": "c"}, None), ({}, 0)):
            job = await client.jobs.update("a", labels=labels, priority=priority)
            request = last(fake, UpdateJobRequest)
            assert isinstance(request, UpdateJobRequest)
            masks.append(list(request.update_mask.paths))
    assert masks == [["priority"], ["labels"], ["labels", "priority"]]
    assert (dict(job.labels), job.priority) == ({}, 0)


async def test_jobs_are_listed_by_label(fake: FakeCoordinator) -> None:
    add_job(fake, JobState.JOB_STATE_PENDING, team="a", kind="b")
    async with connect(fake.address, fake.token) as client:
        assert len(await client.jobs.list(labels={"team": "a"})) == 1
        assert await client.jobs.list(labels={"team": "b"}) == ()


async def test_what_is_gone_is_gone_and_may_be_missing(fake: FakeCoordinator) -> None:
    add_job(fake, JobState.JOB_STATE_SUCCEEDED)
    fake.models["projects/default/models/m"] = Model(name="projects/default/models/m")
    async with connect(fake.address, fake.token) as client:
        await client.jobs.delete("a")
        await client.models.delete("m")
        await client.jobs.delete("a", allow_missing=True)
        await client.models.delete("m", allow_missing=True)
        await client.deployments.delete("d", allow_missing=True)
        for delete in (client.jobs.delete, client.models.delete, client.deployments.delete):
            with pytest.raises(NotFound):
                await delete("a")


async def test_a_deployment_needs_only_its_model(fake: FakeCoordinator) -> None:
    async with connect(fake.address, fake.token) as client:
        short = await client.deployments.create("models/m")
        whole = await client.deployments.create(DeploymentSpec(model="models/m"), deployment_id="m")
    assert short.spec == whole.spec


async def test_waiting_for_a_job_ends_with_it_however_it_ends(fake: FakeCoordinator) -> None:
    add_job(fake, JobState.JOB_STATE_RUNNING)
    async with connect(fake.address, fake.token) as client, asyncio.TaskGroup() as group:
        waiting = group.create_task(client.jobs.wait("a"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await fake.move(NAME, JobState.JOB_STATE_FAILED)
    assert waiting.result().state == JobState.JOB_STATE_FAILED
    async with connect(fake.address, fake.token) as client:
        assert (await client.jobs.wait("a")).state == JobState.JOB_STATE_FAILED


async def test_waiting_for_a_deployment_ends_ready_or_with_its_error(fake: FakeCoordinator) -> None:
    name = "projects/default/deployments/m"
    async with connect(fake.address, fake.token) as client:
        await client.deployments.create("models/m")
        assert (await client.deployments.wait("m")).name == name
        fake.deployments[name].state = DeploymentState.DEPLOYMENT_STATE_FAILED
        error = TunefleetError(Reason.NUMBERS_MISMATCH, "The engine's numbers are not those of training.")
        fake.deployments[name].error.CopyFrom(status_from_error(error))
        with pytest.raises(FailedPrecondition, match="numbers are not those"):
            await client.deployments.wait("m")
        fake.deployments[name].state = DeploymentState.DEPLOYMENT_STATE_STOPPING
        with pytest.raises(FailedPrecondition, match="taken down"):
            await client.deployments.wait("m")
        fake.deployments[name].state = DeploymentState.DEPLOYMENT_STATE_PENDING
        with pytest.raises(DeadlineExceeded, match="not ready in"):
            await client.deployments.wait("m", deadline_seconds=0)


async def test_a_service_is_drained_and_removed_by_short_name(fake: FakeCoordinator) -> None:
    fake.services.append(Service(name="services/t", state=ServiceState.SERVICE_STATE_ATTACHED))
    async with connect(fake.address, fake.token) as client:
        assert (await client.fleet.info()).role == "admin"
        assert (await client.fleet.drain("t")).is_draining
        assert not (await client.fleet.undrain("services/t")).is_draining
        with pytest.raises(FailedPrecondition):
            await client.fleet.remove("t")
        fake.services[0].state = ServiceState.SERVICE_STATE_LOST
        await client.fleet.remove("t")
        with pytest.raises(NotFound):
            await client.fleet.get("t")
        with pytest.raises(InvalidArgument):
            await client.fleet.get("jobs/t")


async def test_a_token_is_made_listed_and_revoked(fake: FakeCoordinator) -> None:
    async with connect(fake.address, fake.token) as client:
        made = await client.tokens.create("ci", role="viewer", project="default", ttl=timedelta(days=1))
        assert made.secret
        assert [token.role for token in await client.tokens.list()] == ["viewer"]
        await client.tokens.revoke("ci")
        with pytest.raises(NotFound):
            await client.tokens.revoke("tokens/ci")


async def test_a_secret_that_was_lost_on_the_way_is_said_to_be_lost(fake: FakeCoordinator) -> None:
    fake.lost_answers = 1
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(FailedPrecondition, match="secret was lost"):
            await client.tokens.create("ci")


async def test_the_catalogue_lists_backends_and_families(fake: FakeCoordinator) -> None:
    fake.backends += [Backend(services=["services/t"])] * 3
    fake.families += [Family(name="qwen3")]
    fake.formats += [Format(name="awq"), Format(name="nf4")]
    async with connect(fake.address, fake.token) as client:
        assert len(await client.catalog.backends()) == 3
        assert len(await client.catalog.backends(limit=2)) == 2
        assert [family.name for family in await client.catalog.families()] == ["qwen3"]
        assert [item.name for item in await client.catalog.formats()] == ["awq", "nf4"]


async def test_a_chat_comes_in_pieces_and_ends_with_its_usage(fake: FakeCoordinator) -> None:
    fake.add_gateway()
    fake.answer = "open a ticket"
    add_deployment(fake)
    turns = [
        {"role": "system", "content": "Be brief."},
        Message(role="user", content=[ContentPart(text="Help!")]),
    ]
    async with connect(fake.address, fake.token) as client:
        pieces = [piece async for piece in client.chat("m", turns, max_tokens=5, temperature=0, stop=["."])]
    assert "".join(piece.text for piece in pieces) == "open a ticket"
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].usage.completion_tokens == 3
    request = last(fake, ChatRequest)
    assert isinstance(request, ChatRequest)
    assert [(turn.role, turn.content[0].text) for turn in request.messages] == [
        ("system", "Be brief."),
        ("user", "Help!"),
    ]
    assert (request.max_tokens, request.temperature, list(request.stop)) == (5, 0.0, ["."])
    assert request.HasField("temperature")
    assert not request.HasField("top_p")
    assert not request.HasField("seed")


async def test_a_chat_may_be_left_early(fake: FakeCoordinator) -> None:
    fake.add_gateway()
    fake.answer = "word " * 1000
    add_deployment(fake)
    async with connect(fake.address, fake.token) as client:
        async with aclosing(client.chat("deployments/m", "hello")) as pieces:
            async for _ in pieces:
                break
        assert await client.inference.tokenize("m", "ab") == (97, 98)


async def test_tokens_of_a_text_or_of_a_conversation(fake: FakeCoordinator) -> None:
    fake.add_gateway()
    add_deployment(fake)
    async with connect(fake.address, fake.token) as client:
        tokenize = client.inference.tokenize
        assert await tokenize("m", text="ab") == (97, 98)
        assert await tokenize("m", [{"role": "user", "content": "ab"}]) == (97, 98)
        for messages, text in ((None, None), ("a", "b")):
            with pytest.raises(InvalidArgument, match="one of the two"):
                await tokenize("m", messages, text=text)


async def test_a_turn_without_role_or_content_is_named(fake: FakeCoordinator) -> None:
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(InvalidArgument, match=r"messages\[1\]"):
            await client.inference.tokenize("m", [{"role": "user", "content": "a"}, {"role": "user"}])


async def test_without_a_gateway_a_chat_says_so(fake: FakeCoordinator) -> None:
    lost = fake.add_gateway()
    lost.state = ServiceState.SERVICE_STATE_LOST
    fake.services.append(Service(name="services/g", kind=ServiceKind.SERVICE_KIND_GATEWAY))
    async with connect(fake.address, fake.token) as client:
        with pytest.raises(Unavailable, match="No gateway"):
            await anext(client.chat("m", "hello"))


async def test_a_gateway_that_moved_is_found_again(fake: FakeCoordinator) -> None:
    add_deployment(fake)
    async with FakeCoordinator() as other:
        fake.services.append(
            Service(
                name="services/g",
                kind=ServiceKind.SERVICE_KIND_GATEWAY,
                state=ServiceState.SERVICE_STATE_ATTACHED,
                endpoints={"inference": other.address},
            )
        )
        other.deployments.update(fake.deployments)
        async with connect(fake.address, fake.token) as client:
            assert await client.inference.tokenize("m", text="a") == (97,)
            await other.stop()
            fake.services[0].endpoints["inference"] = fake.address
            with pytest.raises(Unavailable, match="The gateway at"):
                await anext(client.chat("m", "hello"))
            assert (await anext(client.chat("m", "hello"))).text == "I"


def add_deployment(fake: FakeCoordinator) -> None:
    name = "projects/default/deployments/m"
    fake.deployments[name] = Deployment(name=name)
