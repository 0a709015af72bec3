"""Every way to write calls is read: whole, as a stream cuts it, with text around, and never what is none.

The forms are those that were published with the models; the values are made up.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunefleet_core.answer_forms import FormRefusedError
from tunefleet_core.tool_calls import FORMATS, CallFormat, calls_form, read_tool_use, reader_of

FILE = {
    "type": "object",
    "properties": {
        "queue": {"type": "string"},
        "count": {"type": "integer"},
        "urgent": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "shape": {"type": "object"},
    },
}
SCHEMAS = {"file": FILE, "paint-it": {"type": "object"}}
ONE = ("file", {"queue": "oak, {elm}: <b>\nash", "count": 2})
MANY = ("file", {"count": -1.5, "shape": {"a": [1, None], "b": ""}, "tags": ["x", "y: z"], "urgent": True})
BARE = ("paint-it", {})

DSML = "｜DSML｜"
D3 = {
    "calls": "<｜tool▁calls▁begin｜>",
    "call": "<｜tool▁call▁begin｜>",
    "sep": "<｜tool▁sep｜>",
    "end": "<｜tool▁call▁end｜>",
    "ends": "<｜tool▁calls▁end｜>",
}
THOUGHT = "<|channel|>analysis<|message|>Which queue?<|end|>"
TO_FILE = "<|start|>assistant<|channel|>commentary to=functions.file <|constrain|>json<|message|>"


def way(name: str) -> CallFormat:
    return next(form for form in FORMATS if form.name == name)


def dsml(*calls: tuple[str, dict[str, Any]], block: str) -> str:
    def parameter(name: str, value: object) -> str:
        is_text = isinstance(value, str)
        kind, text = ("true", value) if is_text else ("false", json.dumps(value))
        return f'<{DSML}parameter name="{name}" string="{kind}">{text}</{DSML}parameter>'

    invokes = [
        f'<{DSML}invoke name="{name}">\n'
        + "\n".join(map(parameter, found, found.values()))
        + f"\n</{DSML}invoke>"
        for name, found in calls
    ]
    return f"<{DSML}{block}>\n" + "\n".join(invokes) + f"\n</{DSML}{block}>"


def gemma(name: str, arguments: dict[str, Any], quote: str = '<|"|>') -> str:
    def literal(value: object) -> str:
        if isinstance(value, str):
            return f"{quote}{value}{quote}"
        if isinstance(value, dict):
            return "{" + ",".join(f"{key}:{literal(one)}" for key, one in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(literal, value)) + "]"
        return json.dumps(value)

    return f"call:{name}{literal(arguments)}"


def fenced(name: str, arguments: dict[str, Any]) -> str:
    return f"{D3['call']}function{D3['sep']}{name}\n```json\n{json.dumps(arguments)}\n```{D3['end']}"


def unfenced(name: str, arguments: dict[str, Any]) -> str:
    return f"{D3['call']}{name}{D3['sep']}{json.dumps(arguments)}{D3['end']}"


def llama(*calls: tuple[str, dict[str, Any]]) -> str:
    return "".join(json.dumps({"name": name, "parameters": found}) for name, found in calls)


WRITTEN = [
    ("openai", f" to=functions.file<|channel|>commentary json<|message|>{json.dumps(ONE[1])}", "", [ONE]),
    ("openai", f"{THOUGHT}{TO_FILE}{json.dumps(MANY[1])}<|call|>", "", [MANY]),
    (
        "openai",
        f"<|channel|>commentary<|message|>I file it.<|end|>{TO_FILE}{json.dumps(ONE[1])}<|call|>"
        f"<|start|>assistant to=functions.paint-it<|channel|>commentary json<|message|>{{}}<|call|>",
        "I file it.",
        [ONE, BARE],
    ),
    ("openai", f"{THOUGHT}<|start|>assistant<|channel|>final<|message|>A < b.", "A < b.", []),
    ("deepseek_v3", f"On it.{D3['calls']}{fenced(*ONE)}\n{fenced(*BARE)}{D3['ends']}", "On it.", [ONE, BARE]),
    ("deepseek_v3", f"{D3['calls']}{unfenced(*MANY)}{unfenced(*ONE)}{D3['ends']}", "", [MANY, ONE]),
    ("deepseek_v32", f"On it.\n\n{dsml(ONE, MANY, block='function_calls')}", "On it.", [ONE, MANY]),
    ("deepseek_v4", f"\n\n{dsml(MANY, BARE, block='tool_calls')}", "", [MANY, BARE]),
    ("gemma4", "".join(f"<|tool_call>{gemma(*one)}<tool_call|>" for one in (ONE, MANY)), "", [ONE, MANY]),
    ("gemma4", f"On it.<|tool_call>{gemma(*BARE)}<tool_call|>", "On it.", [BARE]),
    ("functiongemma", f"<start_function_call>{gemma(*MANY, '<escape>')}<end_function_call>", "", [MANY]),
    ("llama4_json", f"<|python_start|><|python_end|>{llama(ONE, MANY)}", "", [ONE, MANY]),
    ("llama4_json", f"<|python_start|>On it.<|python_end|>{llama(BARE)}", "On it.", [BARE]),
    ("llama4_json", f"<|python_start|>{llama(ONE)}<|python_end|>", "", [ONE]),
    ("llama4_json", llama(MANY), "", [MANY]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "written", "text", "calls"), WRITTEN)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_calls_are_taken_out_however_a_stream_cuts_them(
    name: str, written: str, text: str, calls: list[tuple[str, Any]], size: int
) -> None:
    reader = reader_of(way(name), SCHEMAS)
    pieces = [reader.push(written[at : at + size]) for at in range(0, len(written), size)]
    pieces.append(reader.finish())
    assert [(call.name, json.loads(call.arguments)) for piece in pieces for call in piece.calls] == calls
    assert "".join(piece.text for piece in pieces).strip() == text
    assert reader.has_calls == bool(calls)


@pytest.mark.parametrize("name", ["openai", "gemma4", "llama4_json"])
def test_a_call_goes_out_before_the_next_is_written(name: str) -> None:
    written, calls = next((item[1], item[3]) for item in WRITTEN if item[0] == name and len(item[3]) > 1)
    reader = reader_of(way(name), SCHEMAS)
    out = [index for index, letter in enumerate(written) if reader.push(letter).calls]
    assert out[0] < written.rindex(calls[1][0]), "the first was out before the second had its name"


def test_text_goes_out_while_it_is_written() -> None:
    for name, begin in (("openai", "<|channel|>final<|message|>"), ("llama4_json", ""), ("gemma4", "")):
        reader = reader_of(way(name), SCHEMAS)
        reader.push(begin)
        assert reader.push("Once upon a time ").text.strip() == "Once upon a time", name


@pytest.mark.parametrize("name", ["openai", "deepseek_v3", "deepseek_v4", "gemma4", "llama4_json"])
def test_one_call_alone_where_no_more_are_asked_for(name: str) -> None:
    written, calls = next((item[1], item[3]) for item in WRITTEN if item[0] == name and len(item[3]) > 1)
    reader = reader_of(way(name), SCHEMAS, is_parallel=False)
    pieces = [*map(reader.push, written), reader.finish()]
    assert [call.name for piece in pieces for call in piece.calls] == [calls[0][0]]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("openai", "just text"),
        ("openai", " to=functions.file<|channel|>commentary json<|message|>{\"count\": "),
        ("openai", " to=functions.file<|channel|>commentary json<|message|>no arguments"),
        ("deepseek_v3", f"{D3['calls']}{D3['call']}function{D3['sep']}file{D3['end']}{D3['ends']}"),
        ("deepseek_v3", f"{D3['calls']}{D3['ends']}"),
        ("deepseek_v4", f"<{DSML}tool_calls>\nno call\n</{DSML}tool_calls>"),
        ("deepseek_v4", dsml(BARE, block="tool_calls").replace("\n\n", "\nno parameter\n")),
        ("gemma4", "<|tool_call>file{}<tool_call|>"),
        ("gemma4", "<|tool_call>call:file{count:2<tool_call|>"),
        ("gemma4", '<|tool_call>call:file{queue:<|"|>oak}<tool_call|>'),
        ("gemma4", "<|tool_call>call:file" + "{a:" * 80 + "1" + "}" * 80 + "<tool_call|>"),
        ("llama4_json", '{"name": "David", "parameters": {}}'),
        ("llama4_json", '{"name": "file"}'),
        ("llama4_json", '{"name": "file", "parameters": {"count": '),
        ("llama4_json", 'As JSON: {"name": "file", "parameters": {}}'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 10_000])
def test_what_only_looks_like_a_call_stays_text(name: str, written: str, size: int) -> None:
    reader = reader_of(way(name), SCHEMAS)
    pieces = [reader.push(written[at : at + size]) for at in range(0, len(written), size)]
    pieces.append(reader.finish())
    assert "".join(piece.text for piece in pieces) == written
    assert not reader.has_calls


HELD = ("hermes", "mistral", "llama3_json", "qwen3_coder")


# Without a tokenizer that has their marks, harmony and Llama 4's objects cannot be held either.
@pytest.mark.parametrize(
    "form", [form for form in FORMATS if form.name not in HELD], ids=lambda form: form.name
)
def test_what_answers_cannot_be_held_to_is_refused_by_field(form: CallFormat) -> None:
    def tools(**more: object) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": "file", "parameters": FILE, **more}}]

    for choice in ("required", {"type": "function", "function": {"name": "file"}}):
        with pytest.raises(FormRefusedError, match="can be none or auto only") as caught:
            calls_form(read_tool_use(tools(), choice, is_parallel=True), form, {})
        assert caught.value.field == "tool_choice"
    with pytest.raises(FormRefusedError, match="must be false or left out") as caught:
        calls_form(read_tool_use(tools(strict=True), "auto", is_parallel=True), form, {})
    assert caught.value.field == "tools[0].function.strict"
    assert calls_form(read_tool_use(tools(), "auto", is_parallel=True), form, {}) is None


@pytest.mark.parametrize(
    ("schema", "field", "what"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "b+"}}}, ".properties.a", "pattern"),
        ({"properties": {"a": {"type": "string", "const": "b", "format": "c"}}}, ".properties.a", "format"),
        ({"properties": {"a": {"type": "string", "enum": []}}}, ".properties.a", "enum"),
        ({"properties": {"a": {}}, "required": ["b"]}, ".required", "b"),
        ({"properties": {"a>b": {}}}, ".properties", "a>b"),
        ({"anyOf": [{"required": ["a"]}]}, "", "anyOf"),
        ({"properties": 5}, "", "properties"),
        ({"properties": {}, "required": 5}, "", "required"),
    ],
)  # fmt: skip
def test_what_tags_cannot_hold_is_refused_by_field(schema: dict[str, Any], field: str, what: str) -> None:
    tools = [{"type": "function", "function": {"name": "file", "parameters": schema}}]
    with pytest.raises(FormRefusedError) as caught:
        calls_form(read_tool_use(tools, "required", is_parallel=True), way("qwen3_coder"), {})
    assert caught.value.field == f"tools[0].function.parameters{field}"
    assert what in caught.value.message
