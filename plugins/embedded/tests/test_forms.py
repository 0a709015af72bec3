"""Answers are held to the form that is asked for, whatever the model would say by itself."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asking import chat
from engine_process import EngineProcess

TICKET = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["oak", "elm"]},
        "priority": {"type": "integer", "minimum": 1, "maximum": 3},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
    },
    "required": ["queue", "priority", "words"],
    "additionalProperties": False,
}


def _format(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "ticket", "schema": schema, "strict": True}}


def _ask(engine: EngineProcess, **more: Any) -> Any:
    wanted = chat("Which queue?", max_tokens=400, response_format=_format(TICKET))
    return engine.client().chat.completions.create(**{"model": "a", **wanted, **more})


def _is_ticket(text: str) -> bool:
    found = json.loads(text)
    return (
        list(found) == ["queue", "priority", "words"]
        and found["queue"] in ("oak", "elm")
        and found["priority"] in (1, 2, 3)
        and all(len(word) <= 6 for word in found["words"])
    )


@pytest.mark.parametrize("model", ["base", "a"])
def test_every_choice_is_of_the_schema_and_ends_by_itself(qwen: EngineProcess, model: str) -> None:
    answers = [_ask(qwen, model=model), _ask(qwen, model=model, temperature=2.0, seed=1, n=4)]
    choices = [choice for answer in answers for choice in answer.choices]
    wrong = [choice.message.content for choice in choices if not _is_ticket(choice.message.content)]
    assert not wrong
    assert {choice.finish_reason for choice in choices} == {"stop"}
    assert len({choice.message.content for choice in choices}) > 1, "the form leaves it a choice"


def test_a_stream_is_the_whole_answer(qwen: EngineProcess) -> None:
    pieces = [chunk.choices[0].delta.content or "" for chunk in _ask(qwen, stream=True)]
    assert "".join(pieces) == _ask(qwen).choices[0].message.content
    assert len(pieces) > 2


def test_any_object_begins_as_one(qwen: EngineProcess) -> None:
    text = _ask(qwen, response_format={"type": "json_object"}, max_tokens=30).choices[0].message.content
    assert text.lstrip().startswith("{")


def test_free_answers_beside_held_ones_are_as_they_are_alone(qwen: EngineProcess) -> None:
    free = [{"model": model, "response_format": {"type": "text"}} for model in ("base", "a", "b")]
    held = [{"model": model} for model in ("base", "a", "b")]

    def text(more: dict[str, Any]) -> str:
        return str(_ask(qwen, max_tokens=48, **more).choices[0].message.content)

    alone = [text(more) for more in free]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(text, free + held))
    assert together[:3] == alone
    assert not any(one.startswith("{") for one in alone)


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"type": "xml"}, "response_format", "json_schema"),
        ("json", "response_format", "json_schema"),
        ({"type": "json_schema"}, "response_format.json_schema.schema", "JSON Schema"),
        (_format({"type": "nonsense"}), "response_format.json_schema.schema", "nonsense"),
        (_format({"type": "string", "pattern": "("}), "response_format.json_schema.schema", "enforced"),
        (_format({"$ref": "http://elsewhere/schema"}), "response_format.json_schema.schema", "enforced"),
    ],
)
def test_a_form_that_cannot_be_had_is_refused_by_name(
    qwen: EngineProcess, asked: object, param: str, said: str
) -> None:
    reply = qwen.post("/v1/chat/completions", {"model": "a", **chat("Hi"), "response_format": asked})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == param
    assert said in reply.json()["error"]["message"]
