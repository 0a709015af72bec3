"""The stock `openai` package fine-tunes on a running fleet and chats with the `ft:` name, parsed strictly."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from local_fleet import BASE, TICKETS, LocalFleet

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

_ENDED = ("succeeded", "failed", "cancelled")
_MODEL = str(BASE)


def options(fleet: LocalFleet, **more: Any) -> dict[str, Any]:
    base = {"base_url": f"{fleet.gateway}/v1", "api_key": fleet.token("admin"), "max_retries": 0}
    return {**base, "_strict_response_validation": True, **more}


def sync_client(fleet: LocalFleet, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(**options(fleet, **more))


def async_client(fleet: LocalFleet, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(**options(fleet, **more))


def short(steps: int, **more: Any) -> dict[str, Any]:
    """Return what a request says beside OpenAI's fields: a part of a job file."""
    train = {"optim": {"max_steps": steps, "batch_size": 8}, "max_length": 256, **more}
    return {"tunefleet": {"train": train, "backend": "trl"}}


def wait(client: openai.OpenAI, job_id: str) -> Any:
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in _ENDED:
        time.sleep(0.3)
    return job


async def test_the_sync_client_sends_rows_trains_follows_and_chats(fleet: LocalFleet) -> None:
    await asyncio.to_thread(_train_and_chat, fleet)


def _train_and_chat(fleet: LocalFleet) -> None:
    with sync_client(fleet) as client:
        train = client.files.create(file=TICKETS / "train.jsonl", purpose="fine-tune")
        valid = client.files.create(file=TICKETS / "validation.jsonl", purpose="fine-tune")
        assert (train.filename, train.purpose, train.status) == ("train.jsonl", "fine-tune", "processed")
        assert client.files.content(train.id).read() == (TICKETS / "train.jsonl").read_bytes()
        assert {item.id for item in client.files.list()} == {train.id, valid.id}
        usual = client.fine_tuning.jobs.create(
            model=_MODEL,
            training_file=train.id,
            validation_file=valid.id,
            suffix="Ticket answers!",
            seed=7,
            metadata={"team": "support"},
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 50}},
            },
            extra_body=short(40, checkpoint={"every_steps": 20}),
        )
        assert usual.id.startswith("ticket-answers-")
        assert usual.status in ("queued", "running")
        assert (usual.training_file, usual.validation_file, usual.seed) == (train.id, valid.id, 7)
        assert (usual.metadata, usual.model) == ({"team": "support"}, _MODEL)
        assert (usual.hyperparameters.n_epochs, usual.hyperparameters.batch_size) == (2, 8)
        assert usual.hyperparameters.learning_rate_multiplier == 50
        assert usual.method is not None
        assert usual.method.type == "supervised"

        job = wait(client, usual.id)
        assert job.status == "succeeded", job.error
        assert job.fine_tuned_model == f"ft:{_MODEL}:default:{job.id}"
        assert job.trained_tokens
        assert job.finished_at >= job.created_at
        listed = client.fine_tuning.jobs.list(metadata={"team": "support"})
        assert [item.id for item in listed] == [job.id]

        events = list(client.fine_tuning.jobs.list_events(job.id, limit=10))  # in pages, to the first
        assert len({event.id for event in events}) == len(events) > 40
        assert "succeeded" in events[0].message
        losses = [
            event.data["train_loss"]
            for event in events
            if event.type == "metrics" and "train_loss" in event.data
        ]
        assert losses[0] < losses[-1] / 2  # newest first: it learned
        points = list(client.fine_tuning.jobs.checkpoints.list(job.id))
        assert [point.step_number for point in points] == sorted(
            (point.step_number for point in points), reverse=True
        )
        assert points[0].metrics.step == points[0].step_number
        assert points[0].created_at >= job.created_at

        shown = client.models.retrieve(job.fine_tuned_model)
        assert (shown.id, shown.owned_by) == (job.fine_tuned_model, "default")
        assert client.models.list().data == []  # asking about it deploys nothing
        *prompt, answer = json.loads((TICKETS / "train.jsonl").read_text().splitlines()[0])["messages"]
        said = client.chat.completions.create(
            model=job.fine_tuned_model, messages=prompt, temperature=0, max_tokens=64
        )
        assert said.choices[0].message.content.startswith('{"item": "')
        assert said.choices[0].message.content.count(":") == answer["content"].count(":")
        response = client.responses.create(
            model=job.fine_tuned_model, input=prompt, temperature=0, max_output_tokens=64
        )
        assert response.output_text == said.choices[0].message.content
        assert response.usage.output_tokens > 0
        with pytest.raises(openai.NotFoundError, match="No model 'ft:other:default:"):
            client.chat.completions.create(model=f"ft:other:default:{job.id}", messages=prompt)
        with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
            client.embeddings.create(model=job.fine_tuned_model, input="x")

        _delete(fleet, client, job.fine_tuned_model, prompt)
        assert client.files.delete(train.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(train.id)


def _delete(fleet: LocalFleet, client: openai.OpenAI, name: str, prompt: list[Any]) -> None:
    """Delete a model that is served: by who may, and so that nothing is left of it to ask."""
    deployment = name.rpartition(":")[2]
    with pytest.raises(openai.APIStatusError, match=f"tunefleet deployments delete {deployment}") as caught:
        client.models.delete(deployment)
    assert caught.value.status_code == 405
    with pytest.raises(openai.NotFoundError, match="No model 'ft:other:default:"):
        client.models.delete(f"ft:other:default:{deployment}")
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key=_viewer(fleet)).models.delete(name)
    assert [model.id for model in client.models.list().data] == [deployment]

    asyncio.run(_serve_beside(fleet, deployment))
    with pytest.raises(openai.BadRequestError, match="a deployment serves it"):
        client.models.delete(name)
    assert [model.id for model in client.models.list().data] == ["beside"]  # the name's own is down
    assert client.chat.completions.create(model=name, messages=prompt, max_tokens=4).choices  # and made anew
    asyncio.run(_take_down(fleet, "beside"))

    gone = client.models.delete(name)
    assert (gone.id, gone.object, gone.deleted) == (name, "model", True)
    assert client.models.list().data == []
    for ask in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError):
            ask(name)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=name, messages=prompt)


async def _serve_beside(fleet: LocalFleet, model: str) -> None:
    async with fleet.client() as client:
        await client.deployments.create(f"models/{model}", deployment_id="beside")
        await client.deployments.wait("beside")


async def _take_down(fleet: LocalFleet, deployment: str) -> None:
    async with fleet.client() as client:
        await client.deployments.delete(deployment)

        async def is_gone() -> bool:
            return deployment not in [
                item.name.rpartition("/")[2] for item in await client.deployments.list()
            ]

        await fleet.until(is_gone, f"{deployment} is gone", 60.0)


def _viewer(fleet: LocalFleet) -> str:
    """Return the token of one who may ask models and change nothing."""

    async def make() -> str:
        async with fleet.client() as client:
            return (await client.tokens.create("reader", role="viewer")).secret

    return asyncio.run(make())


async def test_the_async_client_pauses_resumes_and_cancels(fleet: LocalFleet) -> None:
    async with async_client(fleet) as client:
        file = await client.files.create(file=TICKETS / "train.jsonl", purpose="fine-tune")
        job = await client.fine_tuning.jobs.create(
            model=_MODEL, training_file=file.id, extra_body=short(100_000)
        )

        async def until(state: str) -> None:
            async with asyncio.timeout(120):
                while (found := await client.fine_tuning.jobs.retrieve(job.id)).state != state:
                    assert found.status not in _ENDED, found.error
                    await asyncio.sleep(0.2)

        await until("RUNNING")
        await client.fine_tuning.jobs.pause(job.id)
        await until("PAUSED")
        assert (await client.fine_tuning.jobs.retrieve(job.id)).status == "queued"
        await client.fine_tuning.jobs.resume(job.id)
        await until("RUNNING")
        await client.fine_tuning.jobs.cancel(job.id)
        async with asyncio.timeout(120):
            while (await client.fine_tuning.jobs.retrieve(job.id)).status != "cancelled":
                await asyncio.sleep(0.2)
        messages = [event.message async for event in client.fine_tuning.jobs.list_events(job.id)]
        assert any("paused" in message for message in messages)


@pytest.fixture(params=["dpo", "reinforcement"])
def rows_and_method(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Rows in OpenAI's own form for a method, and the method as its client asks for it."""
    path = tmp_path / "rows.jsonl"
    turns = [[{"role": "user", "content": f"Name the letter {letter}"}] for letter in "abcdefgh"]
    if request.param == "dpo":
        good, bad = ([{"role": "assistant", "content": text}] for text in ("yes", "no"))
        rows: list[dict[str, Any]] = [
            {"input": {"messages": turn}, "preferred_output": good, "non_preferred_output": bad}
            for turn in turns
        ]
        method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    else:
        rows = [{"messages": turn, "answer": "e"} for turn in turns]
        grader = {
            "type": "string_check",
            "name": "same",
            "operation": "eq",
            "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}",
        }
        method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, method


async def test_preferences_and_rewards_are_trained_from_rows_as_openai_has_them(
    fleet: LocalFleet, rows_and_method: tuple[Path, dict[str, Any]]
) -> None:
    path, method = rows_and_method
    async with async_client(fleet) as client:
        file = await client.files.create(file=path, purpose="fine-tune")
        more = short(2, method={"grpo": {"max_completion_length": 8}} if "reinforcement" in method else {})
        made = await client.fine_tuning.jobs.create(
            model=_MODEL, training_file=file.id, method=method, extra_body=more
        )
        assert made.method is not None
        shown = made.method.to_dict()[method["type"]]
        if method["type"] == "dpo":
            assert shown["hyperparameters"]["beta"] == 0.2
        else:
            assert shown["grader"]["reference"] == "{{item.answer}}"
        with sync_client(fleet) as waiting:
            job = await asyncio.to_thread(wait, waiting, made.id)
        assert job.status == "succeeded", job.error


async def test_what_is_wrong_is_told_with_the_field_before_anything_starts(
    fleet: LocalFleet, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": 5}]}\n')
    async with async_client(fleet) as client:
        with pytest.raises(openai.BadRequestError, match=r"messages\[0\]\.content"):
            await client.files.create(file=tmp_path / "bad.jsonl", purpose="fine-tune")
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.files.create(file=tmp_path / "bad.jsonl", purpose="batch")
        assert wrong.value.param == "purpose"
        with pytest.raises(openai.NotFoundError):
            await client.fine_tuning.jobs.retrieve("nobody")
        create = client.fine_tuning.jobs.create
        with pytest.raises(openai.BadRequestError, match=r"n_epoch.*did you mean 'n_epochs'"):
            await create(model=_MODEL, training_file="x", hyperparameters={"n_epoch": 1})
        with pytest.raises(openai.NotFoundError, match="file-missing"):
            await create(model=_MODEL, training_file="file-missing")
