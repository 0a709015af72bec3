"""From a job file to an answer through the stock OpenAI client, nothing of it a stand-in."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from local_fleet import BASE, TICKETS, LocalFleet

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec
from tunefleet.deployment.v1.rollout_pb2 import Rollout, RolloutPolicy, RolloutState
from tunefleet.job.v1.spec_pb2 import BaseModel, EvaluateSpec, JobSpec

pytestmark = [pytest.mark.backend, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

_VERIFIED = "CONTRACT_STATE_VERIFIED"
_MOST_NATS = 0.02  # what the contract allows between the tuned model and the engine in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Two adapters on one base, served at once: one learned tickets, one to refuse everything."""

    fleet: LocalFleet
    prompt: list[dict[str, str]]
    deployments: dict[str, dict[str, object]]

    def sync_client(self) -> openai.OpenAI:
        token = self.fleet.token("admin")
        return openai.OpenAI(base_url=f"{self.fleet.gateway}/v1", api_key=token, max_retries=0)

    def async_client(self) -> openai.AsyncOpenAI:
        token = self.fleet.token("admin")
        return openai.AsyncOpenAI(base_url=f"{self.fleet.gateway}/v1", api_key=token, max_retries=0)

    def question(self, model: str) -> dict[str, object]:
        return {"model": model, "messages": self.prompt, "temperature": 0, "max_tokens": 40}


def refusing_rows(folder: Path, source: str) -> Path:
    """Write tickets with another answer: whoever learned it says nothing else."""
    rows = [json.loads(line) for line in (TICKETS / source).read_text().splitlines()[:64]]
    for row in rows:
        row["messages"][-1]["content"] = "no"
    path = folder / f"refusing-{source}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scoring(folder: Path) -> JobSpec:
    """Return a job that scores the model that refuses on tickets whose answers are known."""
    data = folder / "scored.jsonl"
    data.write_text("".join(line + "\n" for line in (TICKETS / "test.jsonl").read_text().splitlines()[:8]))
    model = BaseModel(model="models/refusing")
    return JobSpec(
        name="scores-of-refusing",
        evaluate=EvaluateSpec(model=model, data=str(data), metrics=["exact_match"], max_new_tokens=40),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(fleet: LocalFleet) -> Served:
    job = TICKETS / "job.yaml"
    short = ("--set", "train.optim.max_steps=30")
    no = [
        *("--set", f"train.data.train[0].source={refusing_rows(fleet.root, 'train.jsonl')}"),
        *("--set", f"train.data.validation={refusing_rows(fleet.root, 'validation.jsonl')}"),
    ]
    await fleet.done("train", job, "--id", "tickets", *short, "--follow")
    await fleet.done("train", job, "--id", "refusing", *short, *no, "--follow")
    made = await asyncio.gather(
        *(fleet.done("deploy", f"models/{name}", "--wait") for name in ("tickets", "refusing"))
    )
    deployments = dict(
        zip(("tickets", "refusing"), (item.document("Deployment") for item in made), strict=True)
    )
    *prompt, _ = json.loads((TICKETS / "test.jsonl").read_text().splitlines()[0])["messages"]
    return Served(fleet=fleet, prompt=prompt, deployments=deployments)


async def test_models_have_their_lineage(served: Served) -> None:
    model = (await served.fleet.done("models", "show", "tickets")).document("Model")
    job = (await served.fleet.done("jobs", "show", "tickets")).document("Job")
    lineage = model["manifest"]["lineage"]
    assert model["job"] == lineage["job"] == job["name"]
    assert lineage["resolved_spec_digest"] == job["resolved_spec_digest"]
    assert lineage["base_model"] == str(BASE)
    for field in ("base_digest", "tokenizer_digest", "template_digest", "environment_digest", "hardware"):
        assert lineage[field], field
    files = {item["path"] for item in model["manifest"]["files"]}
    assert {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"} <= files
    assert not [path for path in files if path.endswith((".bin", ".pt", ".pth", ".pkl"))]


async def test_both_are_verified_in_tokens_and_numbers_in_one_engine_process(served: Served) -> None:
    for deployment in served.deployments.values():
        contract = deployment["contract"]
        assert isinstance(contract, dict)
        assert (contract["tokens"], contract["numbers"]) == (_VERIFIED, _VERIFIED)
        assert contract["distance_to_tuned"] < _MOST_NATS < contract["distance_to_base"]
    assert len({item["engine_address"] for item in served.deployments.values()}) == 1
    assert len(served.fleet.processes("tunefleet_embedded.engine")) == 1


@pytest.mark.parametrize(("name", "starts"), [("tickets", '{"'), ("refusing", "no")])
async def test_sync_client_gets_what_each_adapter_learned(served: Served, name: str, starts: str) -> None:
    def ask() -> tuple[str, list[str]]:
        with served.sync_client() as client:
            assert {model.id for model in client.models.list()} == {"tickets", "refusing"}
            answer = client.chat.completions.create(**served.question(name))
            assert answer.usage.completion_tokens > 0
            with client.chat.completions.create(**served.question(name), stream=True) as stream:
                pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
            return answer.choices[0].message.content, [piece for piece in pieces if piece]

    said, pieces = await asyncio.to_thread(ask)
    assert said.startswith(starts)
    assert "".join(pieces) == said
    assert len(pieces) > 1 or said == "no"  # a stream of one piece would be no stream


async def test_async_client_mixes_adapters_in_one_batch(served: Served) -> None:
    async with served.async_client() as client:

        async def ask(name: str) -> str:
            answer = await client.chat.completions.create(**served.question(name))
            return answer.choices[0].message.content

        async def stream(name: str) -> str:
            pieces: list[str] = []
            async with await client.chat.completions.create(**served.question(name), stream=True) as chunks:
                async for chunk in chunks:
                    pieces += [choice.delta.content or "" for choice in chunk.choices]
            return "".join(pieces)

        alone = {name: await ask(name) for name in ("tickets", "refusing")}
        assert alone["refusing"].strip() == "no"
        names = ["tickets", "refusing"] * 3
        together = await asyncio.gather(*(ask(name) for name in names), *(stream(name) for name in names))
        assert together == [alone[name] for name in names * 2]


async def test_completions_and_unknown_models_answer_as_openai_does(served: Served) -> None:
    async with served.async_client() as client:
        answer = await client.completions.create(
            model="refusing", prompt="Hello", max_tokens=3, temperature=0
        )
        assert answer.object == "text_completion"
        assert answer.usage.completion_tokens <= 3
        with pytest.raises(openai.NotFoundError) as raised:
            await client.chat.completions.create(**served.question("nobody"))
        assert "nobody" in raised.value.message
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="tf-wrong").models.list()


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": [{"role": "user", "content": "long " * 5000}]}, "context_length_exceeded", "messages"),
        ({"max_tokens": 1_000_000}, "context_length_exceeded", "messages"),
        ({"temperature": "hot"}, None, "temperature"),
        ({"messages": [{"role": "user"}]}, None, "messages[0].content"),
        ({"response_format": {"type": "json_schema"}}, None, "response_format.json_schema.schema"),
        ({"logit_bias": {"5": 1}}, "unsupported_parameter", "logit_bias"),
    ],
)
async def test_what_the_engine_refuses_reaches_the_client_by_code_and_field(
    served: Served, fields: dict[str, object], code: str | None, param: str
) -> None:
    async with served.async_client() as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(**served.question("tickets") | fields)
    error = raised.value
    assert (error.code, error.param) == (code, param)
    assert param.partition("[")[0] in error.message or code == "context_length_exceeded"


async def test_terminal_chat_answers_from_the_same_model(served: Served) -> None:
    ended = await served.fleet.cli("chat", "refusing", "-m", served.prompt[-1]["content"])
    assert ended.code == 0, ended.stderr
    assert ended.stdout.strip() == "no"


async def test_a_version_that_scores_too_low_goes_and_one_that_is_rolled_out_takes_every_caller(
    served: Served,
) -> None:
    """Both versions are adapters in one engine; each answer is held to the version that it names."""
    users = [f"user-{number}" for number in range(24)]
    async with served.fleet.client() as fleet, served.async_client() as client:
        learned = {
            name: (await client.chat.completions.create(**served.question(name))).choices[0].message.content
            for name in ("tickets", "refusing")
        }
        assert learned["refusing"].strip() == "no" != learned["tickets"].strip()

        async def ask(user: str) -> str:
            """Return the version that a user's answer names, and hold the answer to it."""
            question = served.question("shown") | {"user": user}
            if user.endswith(("1", "3", "5")):
                chunks = [
                    chunk async for chunk in await client.chat.completions.create(**question, stream=True)
                ]
                named = {chunk.model for chunk in chunks}
                said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            else:
                answer = await client.chat.completions.create(**question)
                named, said = {answer.model}, answer.choices[0].message.content
            (version,) = {model.partition("@")[0] for model in named}
            assert said == learned[version], (user, version, said)
            return version

        async def ask_all() -> dict[str, str]:
            return dict(zip(users, await asyncio.gather(*map(ask, users)), strict=True))

        async def rollout() -> Rollout:
            found = await fleet.deployments.rollout("shown")
            assert found is not None
            return found

        await fleet.deployments.create(DeploymentSpec(model="models/tickets"), deployment_id="shown")
        await fleet.deployments.wait("shown")

        async def is_offered() -> bool:
            return "shown" in {model.id async for model in client.models.list()}

        await served.fleet.until(is_offered, "the gateway offers it")
        (trainer,) = [service.name for service in await fleet.fleet.list() if "trainer" in service.name]
        await fleet.fleet.drain(trainer)  # the scores come when both versions have answered
        job = await fleet.jobs.create(scoring(served.fleet.root), job_id="scores-of-refusing")
        policy = RolloutPolicy(
            steps=[50], min_requests=0, evaluate_job=job.name, min_scores={"exact_match": 0.5}
        )
        await fleet.deployments.roll_out("shown", "models/refusing", policy)

        async def is_shared() -> bool:
            return set((await ask_all()).values()) == {"tickets", "refusing"}

        await served.fleet.until(is_shared, "the candidate has its share", 60)
        await fleet.fleet.undrain(trainer)

        async def has_ended() -> bool:
            await ask_all()
            return (await rollout()).state == RolloutState.ROLLOUT_STATE_ROLLED_BACK

        await served.fleet.until(has_ended, "its scores take it back", 60)
        ended = await rollout()
        assert ended.reason == ("Job 'scores-of-refusing' reached exact_match 0; at least 0.5 was asked for.")

        async def is_back() -> bool:
            return set((await ask_all()).values()) == {"tickets"}

        await served.fleet.until(is_back, "the version before has everything again")

        policy = RolloutPolicy(steps=[30, 60], min_requests=3)
        policy.bake.FromMilliseconds(300)
        await fleet.deployments.roll_out("shown", "models/refusing", policy)
        waves: list[dict[str, str]] = []

        async def is_done() -> bool:
            waves.append(await ask_all())
            return set(waves[-1].values()) == {"refusing"}

        await served.fleet.until(is_done, "every caller has the new version", 60)
        assert any(set(wave.values()) == {"tickets", "refusing"} for wave in waves), "it took them in steps"
        for before, after in pairwise(waves):
            assert all(after[user] == "refusing" for user in users if before[user] == "refusing")

        async def has_won() -> bool:
            await ask_all()
            return (await rollout()).state == RolloutState.ROLLOUT_STATE_SUCCEEDED

        await served.fleet.until(has_won, "the roll-out has succeeded", 60)
        assert len(served.fleet.processes("tunefleet_embedded.engine")) == 1
        await fleet.deployments.delete("shown")

        async def is_gone() -> bool:
            return "shown" not in {model.id async for model in client.models.list()}

        await served.fleet.until(is_gone, "the gateway no longer offers it")


async def test_a_viewer_chats_with_what_is_served_and_deploys_nothing(served: Served) -> None:
    fleet = served.fleet
    async with fleet.client() as client:
        viewer = (await client.tokens.create("onlooker", role="viewer")).secret
    await fleet.done("deployments", "delete", "refusing")
    async with served.async_client() as client, client.with_options(api_key=viewer) as onlooker:

        async def is_gone() -> bool:
            return {model.id async for model in client.models.list()} == {"tickets"}

        await fleet.until(is_gone, "the gateway no longer offers it")

        async def is_known() -> bool:
            try:
                return bool((await onlooker.chat.completions.create(**served.question("tickets"))).choices)
            except openai.AuthenticationError:  # the gateway has not heard of the token yet
                return False

        await fleet.until(is_known, "the viewer chats with what is served")
        with pytest.raises(openai.PermissionDeniedError) as raised:
            await onlooker.chat.completions.create(**served.question(f"ft:{BASE}:default:refusing"))
        assert (raised.value.code, raised.value.type) == ("permission_denied", "permission_error")
        assert await is_gone()
    assert "refusing" not in (await fleet.done("deployments", "list")).stdout


async def test_deleted_deployments_are_gone_and_with_the_last_their_engine(served: Served) -> None:
    fleet = served.fleet
    async with served.async_client() as client:

        async def names() -> set[str]:
            return {model.id async for model in client.models.list()}

        async def only_tickets() -> bool:
            return await names() == {"tickets"}

        await fleet.until(only_tickets, "the gateway no longer offers it")
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(**served.question("refusing"))
        answer = await client.chat.completions.create(**served.question("tickets"))
        assert answer.choices[0].message.content
    await fleet.done("deployments", "delete", "tickets")
    await fleet.until(lambda: not fleet.processes("tunefleet_embedded.engine"), "the engine has ended")
