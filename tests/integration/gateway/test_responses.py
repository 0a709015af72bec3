"""The Responses API over an engine that speaks chat completions, read strictly by the `openai` package."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

TEXT = 'Grüße from a fake 模型 🦙 "quoted" \n'
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = {"id": "call_7", "name": "get_weather", "arguments": '{"city": "Ulm"}'}


def options(gateway):
    return {
        "base_url": gateway.openai_url,
        "api_key": "tf-test-token",
        "max_retries": 0,
        "_strict_response_validation": True,
    }


def fake(**wanted):
    """Return an input that tells the engine what to do."""
    return f"fake:{json.dumps(wanted)}"


def asked(engine):
    """Return what the engine was asked last."""
    return json.loads(engine.seen()[-1]["body"])


async def test_the_sync_client_reads_a_whole_answer_and_the_engine_a_chat(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running:

        def use():
            with OpenAI(**options(running)) as client:
                return client.responses.create(
                    model="tickets",
                    input="hello",
                    instructions="Be kind.",
                    max_output_tokens=9,
                    temperature=0,
                )

        response = await asyncio.to_thread(use)
    assert response.output_text == TEXT
    assert (response.status, response.model, response.instructions) == ("completed", "tickets", "Be kind.")
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (
        3,
        8,
        11,
    )
    body = asked(engine)
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello"},
    ]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tickets@42", 9, 0)


async def test_a_stream_has_openais_events_in_openais_order(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, AsyncOpenAI(**options(running)) as client:
        stream = await client.responses.create(
            model="tickets", input=fake(tokens=3, thought="Hm.", calls=[CALL]), tools=[WEATHER], stream=True
        )
        events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    thought, message, call = events[-1].response.output
    assert thought.content[0].text == "Hm."
    assert message.content[0].text == "Grüße from a"
    assert (call.call_id, call.name, call.arguments) == ("call_7", "get_weather", CALL["arguments"])
    assert {item.status for item in (thought, message, call)} == {"completed"}


async def test_the_high_level_stream_of_the_package_follows_it_too(engine, gateway, table):
    async with (
        gateway(table(tickets=engine.address)) as running,
        AsyncOpenAI(**options(running)) as client,
        client.responses.stream(model="tickets", input="hello") as stream,
    ):
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(texts) == final.output_text == TEXT


async def test_a_conversation_with_calls_and_outputs_reaches_the_engine_as_turns(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, AsyncOpenAI(**options(running)) as client:
        first = await client.responses.create(
            model="tickets", input=fake(tokens=0, calls=[CALL]), tools=[WEATHER], tool_choice="required"
        )
        assert asked(engine)["tool_choice"] == "required"
        call = first.output[0]
        await client.responses.create(
            model="tickets",
            input=[
                {"role": "user", "content": [{"type": "input_text", "text": "How is it in Ulm?"}]},
                call.to_dict(),
                {"type": "function_call_output", "call_id": call.call_id, "output": "21"},
            ],
            tools=[WEATHER],
            text={"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}},
        )
    body = asked(engine)
    function = {"name": "get_weather", "arguments": CALL["arguments"]}
    assert body["messages"] == [
        {"role": "user", "content": "How is it in Ulm?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_7", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_7", "content": "21"},
    ]
    kept = {name: WEATHER[name] for name in ("name", "parameters", "strict")}
    assert body["tools"] == [{"type": "function", "function": kept}]
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": {"type": "object"}}


async def test_an_answer_that_was_cut_is_incomplete(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, AsyncOpenAI(**options(running)) as client:
        response = await client.responses.create(model="tickets", input=fake(tokens=2, cut=True))
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("previous_response_id", "resp_1", "whole conversation"),
        ("input", [], "empty"),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "text alone"),
        ("tools", [{"type": "web_search"}], "not here"),
        ("max_output_tokens", 0, "above 0"),
    ],
)
async def test_what_no_engine_can_do_is_refused_by_field(engine, gateway, table, field, value, match):
    async with gateway(table(tickets=engine.address)) as running, AsyncOpenAI(**options(running)) as client:
        with pytest.raises(openai.BadRequestError, match=match) as caught:
            await client.responses.create(**{"model": "tickets", "input": "x", field: value})
        assert str(caught.value.param).startswith(field)
    assert engine.seen() == []


async def test_an_engine_that_refuses_or_dies_is_never_taken_for_an_answer(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, AsyncOpenAI(**options(running)) as client:
        with pytest.raises(openai.RateLimitError, match="the engine says no"):
            await client.responses.create(model="tickets", input=fake(status=429))
        stream = await client.responses.create(
            model="tickets", input=fake(tokens=9, die_after=2), stream=True
        )
        events = [event async for event in stream]
        assert events[-1].type == "response.failed"
        assert "went away" in events[-1].response.error.message
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model="tickets", input="now it is gone")


async def test_a_client_that_leaves_ends_the_engines_work(engine, gateway, table):
    async with gateway(table(tickets=engine.address)) as running, AsyncOpenAI(**options(running)) as client:
        stream = await client.responses.create(
            model="tickets", input=fake(tokens=10_000, interval_ms=20), stream=True
        )
        await anext(aiter(stream))
        await stream.close()
        async with asyncio.timeout(10):
            await engine.wait_for(lambda seen: seen[-1]["state"] == "cancelled")
