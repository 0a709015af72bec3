"""The real `openai` package, sync and async, parses every answer of the gateway strictly."""

from __future__ import annotations

import asyncio
import json

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

HELLO = [{"role": "user", "content": "hello"}]
TEXT = 'Grüße from a fake 模型 🦙 "quoted" \n'


def async_client(gateway, api_key="tf-test-token", **options):
    return AsyncOpenAI(
        base_url=gateway.openai_url,
        api_key=api_key,
        max_retries=0,
        _strict_response_validation=True,
        **options,
    )


async def test_async_client_reads_whole_and_streamed_answers(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        chat = await client.chat.completions.create(model="tickets", messages=HELLO)
        assert chat.choices[0].message.content == TEXT
        assert chat.usage is not None
        assert chat.usage.total_tokens == 11
        text = await client.completions.create(model="tickets", prompt="hello")
        assert text.choices[0].text == TEXT
        pieces = [
            chunk.choices[0].delta.content
            async for chunk in await client.chat.completions.create(
                model="tickets", messages=HELLO, stream=True
            )
        ]
        assert len(pieces) == 8
        assert "".join(piece or "" for piece in pieces) == TEXT
        # Not strictly: the package's type has no null finish_reason, which every engine streams.
        lenient = client.copy(_extra_kwargs={"_strict_response_validation": False})
        texts = [
            chunk.choices[0].text
            async for chunk in await lenient.completions.create(model="tickets", prompt="hello", stream=True)
        ]
        assert "".join(texts) == TEXT
    assert {request["path"] for request in engine.seen()} == {"/v1/chat/completions", "/v1/completions"}


async def test_what_the_developer_says_reaches_the_engine_as_the_systems(engine, gateway, table):
    asked = {"role": "user", "content": "hello"}
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        for role in ("developer", "system"):
            messages = [{"role": role, "content": "Be brief."}, asked]
            await client.chat.completions.create(model="tickets", messages=messages)
            await client.responses.create(model="tickets", input=messages)
    sent = [json.loads(request["body"])["messages"] for request in engine.seen()]
    assert sent == [[{"role": "system", "content": "Be brief."}, asked]] * 4


async def test_sync_client_reads_whole_and_streamed_answers(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running:

        def use() -> None:
            with OpenAI(
                base_url=running.openai_url,
                api_key="tf-test-token",
                max_retries=0,
                _strict_response_validation=True,
            ) as client:
                chat = client.chat.completions.create(model="tickets", messages=HELLO)
                assert chat.choices[0].message.content == TEXT
                stream = client.chat.completions.create(model="tickets", messages=HELLO, stream=True)
                assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == TEXT
                assert client.completions.create(model="tickets", prompt="x").choices[0].text == TEXT
                assert [model.id for model in client.models.list()] == ["tickets"]

        await asyncio.to_thread(use)


async def test_models_are_listed_and_shown_also_with_slashes_in_their_names(engine, gateway, table):
    names = {"tickets": engine.address, "Qwen/Qwen3-0.6B": engine.address}
    async with gateway(table(**names)) as running, async_client(running) as client:
        page = await client.models.list()
        assert [model.id for model in page.data] == ["Qwen/Qwen3-0.6B", "tickets"]
        shown = await client.models.retrieve("Qwen/Qwen3-0.6B")
        assert (shown.id, shown.object, shown.owned_by) == ("Qwen/Qwen3-0.6B", "model", "default")
        assert shown.created == 1767225600
        with pytest.raises(openai.NotFoundError, match="No model 'x/y' is served"):
            await client.models.retrieve("x/y")


async def test_unknown_model_is_not_found_and_the_message_says_how_to_see_the_models(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        with pytest.raises(openai.NotFoundError, match="GET /v1/models") as caught:
            await client.chat.completions.create(model="tickets@42", messages=HELLO)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert engine.seen() == []  # the engine's own name is no way in


async def test_bad_token_is_an_authentication_error(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running:
        for wrong in ("wrong", "tf-test-toke", "tf-test-token2", "TF-TEST-TOKEN"):
            async with async_client(running, api_key=wrong) as client:
                with pytest.raises(openai.AuthenticationError, match="unknown or was revoked") as caught:
                    await client.chat.completions.create(model="tickets", messages=HELLO)
                assert caught.value.code == "invalid_api_key"
                with pytest.raises(openai.AuthenticationError):
                    await client.models.list()
    assert engine.seen() == []


async def test_a_revoked_token_is_refused_from_the_next_request_on(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        await client.models.list()
        running.holder.replace_routes(type(running.holder.table)())
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_the_engines_own_error_reaches_the_client_unchanged(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        with pytest.raises(openai.RateLimitError, match="the engine says no") as caught:
            await client.chat.completions.create(
                model="tickets", messages=HELLO, extra_body={"fake": {"status": 429}}
            )
        assert caught.value.response.headers["retry-after"] == "7"


async def test_no_engine_at_the_address_is_503_with_retry_after(engine, gateway, table):
    engine.end()
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        with pytest.raises(openai.InternalServerError, match="cannot be reached") as caught:
            await client.chat.completions.create(model="tickets", messages=HELLO)
        assert caught.value.status_code == 503
        assert caught.value.code == "engine_unavailable"
        assert caught.value.response.headers["retry-after"] == "1"


async def test_engine_killed_mid_stream_raises_after_the_pieces_it_sent(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        stream = await client.chat.completions.create(
            model="tickets", messages=HELLO, stream=True, extra_body={"fake": {"die_after": 3}}
        )
        pieces: list[str | None] = []

        async def read() -> None:
            async for chunk in stream:
                pieces.append(chunk.choices[0].delta.content)

        with pytest.raises(openai.APIError, match="went away in the middle"):
            await read()
        assert pieces == ["Grüße", " from", " a"]
        record = await running.record_of(stream.response.headers["x-request-id"])
        assert (record["status"], record["outcome"]) == (200, "engine_gone")


async def test_a_stream_that_ends_inside_an_event_is_never_taken_for_complete(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        stream = await client.chat.completions.create(
            model="tickets",
            messages=HELLO,
            stream=True,
            extra_body={"fake": {"die_after": 2, "cut_event": True}},
        )

        async def read() -> None:
            async for _ in stream:
                pass

        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            await read()


async def test_engine_that_dies_after_its_head_is_503_as_nothing_was_sent_yet(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, async_client(running) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model="tickets", messages=HELLO, stream=True, extra_body={"fake": {"head_only": True}}
            )
        assert caught.value.status_code == 503
