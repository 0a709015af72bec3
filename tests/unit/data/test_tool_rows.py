"""Rows with tools and thoughts: how they are read, and what is said about a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunefleet_core.data import Row, openai_messages, read_rows, tool_name
from tunefleet_core.errors import Reason, TunefleetError

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": ["string", "null"], "enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
USER = {"role": "user", "content": "Weather in 東京?"}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "東京"}},
}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "21"}
ANSWER = {"role": "assistant", "content": "21 °C.", "reasoning_content": "The tool said 21."}
ROW: dict[str, Any] = {"tools": [TOOL], "messages": [USER, CALLS, RESULT, ANSWER]}


def read(folder: Path, *rows: object) -> list[Row]:
    path = folder / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return list(read_rows(path))


def test_a_row_is_given_to_templates_as_they_take_it(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW)
    assert row.as_chat() == [USER, CALLS | {"content": ""}, RESULT, ANSWER]
    assert list(row.tools) == [TOOL]
    assert [tool_name(tool) for tool in row.tools] == ["get_weather"]
    assert row.has_tools
    assert row.has_thoughts


def test_json_text_means_what_it_spells(tmp_path: Path) -> None:
    """OpenAI's API writes arguments as text, tables of one type per column the tools."""
    text = CALL | {"function": {"name": "get_weather", "arguments": '{"city": "東京"}'}}
    row = {"tools": json.dumps([TOOL]), "messages": [USER, CALLS | {"tool_calls": [text]}, RESULT, ANSWER]}
    one, other = read(tmp_path, ROW, row)
    assert one.as_chat() == other.as_chat()
    assert one.tools == other.tools
    assert openai_messages(other.as_chat())[1]["tool_calls"] == [text]


def test_the_order_of_keys_is_kept(tmp_path: Path) -> None:
    arguments = {"z": 1, "a": {"y": 2, "b": [3]}}
    call = {"function": {"name": "f", "arguments": arguments}}
    (row,) = read(tmp_path, {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]})
    assert json.dumps(row.messages[1].tool_calls[0].arguments) == json.dumps(arguments)


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_have_three_names(tmp_path: Path, name: str) -> None:
    thought = {"role": "assistant", "content": "a", name: "b"}
    (row,) = read(tmp_path, {"messages": [USER, thought]})
    assert row.as_chat()[1] == {"role": "assistant", "content": "a", "reasoning_content": "b"}


def test_null_and_empty_lists_say_nothing(tmp_path: Path) -> None:
    """Tables of one type per column fill what a message lacks with null."""
    nulls = dict.fromkeys(("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking"))
    answer = {"role": "assistant", "content": "Hi", "tool_calls": []}
    (row,) = read(tmp_path, {"tools": [], "messages": [nulls | USER, answer]})
    assert row.as_chat() == [USER, {"role": "assistant", "content": "Hi"}]
    assert not row.has_tools


def test_answers_without_an_id_are_matched_by_name_and_then_by_order(tmp_path: Path) -> None:
    calls = [{"function": {"name": name, "arguments": {}}} for name in ("f", "g", "f")]
    answers = [{"role": "tool", "content": "1", "name": "g"}, *[{"role": "tool", "content": "2"}] * 2]
    turns = [USER, {"role": "assistant", "content": "", "tool_calls": calls}, *answers]
    assert len(read(tmp_path, {"messages": turns})[0].messages) == 5


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the good row with one thing changed; ... removes it."""
    row = json.loads(json.dumps(ROW))
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    inner = row
    for step in steps:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return row


CALLED = "messages/1/tool_calls/0"
SCHEMA = "tools/0/function/parameters"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("tools", "[", "tools: is not JSON"),
        ("tools", {}, "tools: must be a list of functions, got an object."),
        ("tools/0", "x", "tools[0]: must be an object, got a string."),
        ("tools/0", {"name": "f", "parameters": {}}, "tools[0]: is a bare function; a tool names its type."),
        ("tools/0/type", ..., "tools[0].type: is missing."),
        ("tools/0/type", "retrieval", "tools[0].type: must be 'function', got \"retrieval\"."),
        ("tools/0/function", ..., "tools[0].function: is missing."),
        ("tools/0/function/name", ..., "tools[0].function.name: is missing."),
        ("tools/0/function/name", "a b", "tools[0].function.name: must be 1 to 128 letters"),
        ("tools/0/function/description", 3, "tools[0].function.description: must be a string, got a number."),
        (
            "tools",
            [TOOL, TOOL],
            "tools[1].function.name: is 'get_weather', which tools[0] is called already.",
        ),
        (SCHEMA, {"city": {"type": "string"}}, "SCHEMA.type: must be 'object', got nothing."),
        (
            f"{SCHEMA}/properties/city/type",
            "str",
            "SCHEMA.properties.city.type: must be one of string, number, integer, boolean, "
            "object, array, null, got \"str\"; did you mean 'string'?",
        ),
        (f"{SCHEMA}/properties", [], "SCHEMA.properties: must be an object, got a list."),
        (f"{SCHEMA}/properties/city", "x", "SCHEMA.properties.city: must be an object"),
        (
            f"{SCHEMA}/required/0",
            "town",
            'SCHEMA.required[0]: is "town", which is no property.',
        ),
        (f"{SCHEMA}/required", "city", "SCHEMA.required: must be a list of names"),
        (f"{SCHEMA}/properties/unit/anyOf", 1, "SCHEMA.properties.unit.anyOf: must be a list"),
        ("functions", [], "functions: is the old name of 'tools'."),
        (
            "messages/0/tool_calls",
            [CALL],
            "messages[0].tool_calls: is a field of the role 'assistant', not of 'user'.",
        ),
        ("messages/0/name", "Ada", "messages[0].name: is a field of the role 'tool', not of 'user'."),
        ("messages/1/tool_calls", {}, "messages[1].tool_calls: must be a list of calls, got an object."),
        (
            "messages/1/tool_calls",
            ...,
            "messages[1].content: must be a string or a list of text parts, got null.",
        ),
        (CALLED, 1, "CALL: must be an object, got a number."),
        (f"{CALLED}/type", "code", "CALL.type: must be 'function', got \"code\"."),
        (f"{CALLED}/function", ..., "CALL.function: is missing."),
        (CALLED, CALL["function"], "CALL.name: stands outside of 'function'."),
        (f"{CALLED}/index", 0, "CALL.index: is not a field of a call."),
        (
            f"{CALLED}/function/name",
            "getweather",
            "CALL.function.name: is \"getweather\", which is no tool of the row; did you mean 'get_weather'?",
        ),
        (f"{CALLED}/function/arguments", ..., "CALL.function.arguments: is missing."),
        (f"{CALLED}/function/arguments", "{'a': 1}", "CALL.function.arguments: is not JSON"),
        (f"{CALLED}/function/arguments", "[1]", "CALL.function.arguments: must be a JSON object"),
        (f"{CALLED}/function/arguments", '{"a": 1e999}', "CALL.function.arguments.a: is too large"),
        (f"{CALLED}/function/arguments", '{"a": 1, "a": 2}', "CALL.function.arguments.a: is given"),
        (f"{CALLED}/function/arguments", {"a": "\ud800"}, "CALL.function.arguments.a: holds half"),
        (
            "messages/1/tool_calls",
            [CALL, CALL],
            'messages[1].tool_calls[1].id: is "call00001", the id of [0] too.',
        ),
        (
            "messages/1",
            {"role": "assistant", "content": "x"},
            "messages[2].role: is 'tool', and no call stands before it.",
        ),
        (
            "messages/2/tool_call_id",
            "call00002",
            'messages[2].tool_call_id: is "call00002", which no call before it has that waits for an answer; '
            "did you mean 'call00001'? (waiting: call00001).",
        ),
        ("messages/3", RESULT, "messages[3].role: is 'tool', and every call before it has its answer."),
        (
            "messages/2/name",
            "time",
            "messages[2].name: is \"time\", and the call it answers is one of 'get_weather'.",
        ),
        ("messages/2/tool_call_id", "", "messages[2].tool_call_id: is empty."),
        (
            "messages/3/thinking",
            "x",
            "messages[3].thinking: is another name of 'reasoning_content', which is given too.",
        ),
        ("messages/3/reasoning_content", 1, "messages[3].reasoning_content: must be a string, got a number."),
        ("messages/3/thought", "x", "messages[3].thought: is not a field of a message"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_field(
    tmp_path: Path, path: str, value: object, expected: str
) -> None:
    with pytest.raises(TunefleetError) as caught:
        read(tmp_path, ROW, changed(path, value))
    assert caught.value.reason is Reason.DATA_INVALID
    expected = expected.replace("CALL", "messages[1].tool_calls[0]")
    expected = expected.replace("SCHEMA", "tools[0].function.parameters")
    assert caught.value.message.startswith(f"train.jsonl:2: {expected}")
    assert caught.value.hint
    assert caught.value.metadata["line"] == "2"


def test_nesting_has_a_bound(tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(TunefleetError, match="arguments: is nested more than 32 levels deep"):
        read(tmp_path, changed(f"{CALLED}/function/arguments", {"a": deep}))


WORDS = [
    *("messages", "tools", "role", "content", "tool_calls", "function", "name", "arguments", "id", "type"),
    *("parameters", "properties", "required", "items", "anyOf", "tool_call_id", "thinking"),
    *("reasoning_content", "description", "user", "assistant", "tool", "object", "f", "{}", "[]"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)
PLACES = (
    *("tools", "tools/0", "tools/0/function", "tools/0/function/name", SCHEMA, f"{SCHEMA}/properties"),
    *(f"{SCHEMA}/properties/city", f"{SCHEMA}/required", "messages/1", "messages/2", "messages/3"),
    *(
        CALLED,
        f"{CALLED}/function",
        f"{CALLED}/function/arguments",
        f"{CALLED}/id",
        "messages/2/tool_call_id",
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=JSON, depth=st.sampled_from([0, 0, 0, 30, 400]))
def test_anything_anywhere_is_read_or_refused_as_data(
    tmp_path: Path, place: str, value: object, depth: int
) -> None:
    for _ in range(depth):
        value = {"properties": {"items": value}} if depth == 30 else [value]
    try:
        rows = read(tmp_path, changed(place, value))
    except TunefleetError as error:
        is_fine = error.reason is Reason.DATA_INVALID
    else:
        is_fine = all(json.dumps([row.as_chat(), row.tools], allow_nan=False) for row in rows)
    assert is_fine
