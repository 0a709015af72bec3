"""What a model writes as calls comes back as calls, and `tool_choice` holds it to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from asking import chat
from engine_process import EngineProcess
from forked_engine import ForkedEngine
from tiny_models import make_adapter, make_base, make_tokenizer
from tunefleet_core.answer_forms import FormRefusedError, Grammars
from tunefleet_core.tool_calls import FORMATS, CallReader, calls_form, read_tool_use
from tunefleet_families import GEMMA4, GPT_OSS, LLAMA3, LLAMA4, MISTRAL, QWEN3, QWEN3_MOE

from tunefleet_embedded.engine.openai_answers import AnswerWriter
from tunefleet_embedded.engine.sequence import Update
from tunefleet_embedded.engine.tools import ToolForms

TICKET = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["oak", "elm"]},
        "priority": {"type": "integer", "minimum": 1, "maximum": 3},
    },
    "required": ["queue", "priority"],
    "additionalProperties": False,
}
COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}


def tool(name: str, schema: object, **more: object) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


TOOLS = [tool("file", TICKET), tool("paint", {**COLOUR, "additionalProperties": False})]
MARKS = (
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|eot_id|>", "<|python_start|>", "<|python_end|>"),
    *(f"<|{name}|>" for name in ("start", "end", "message", "channel", "constrain", "call", "return")),
)
ONE = {"type": "function", "function": {"name": "paint"}}
LLAMA3_1 = next(form.chat_template for form in LLAMA3.variants if form.name == "llama3_1")
CODER = next(form.chat_template for form in QWEN3_MOE.variants if form.name == "coder")
TEMPLATES = {
    "hermes": QWEN3.chat_template,
    "mistral": MISTRAL.chat_template,
    "llama": LLAMA3_1,
    "coder": CODER,
    "harmony": GPT_OSS.chat_template,
    "llama4": LLAMA4.chat_template,
    "gemma4": GEMMA4.chat_template,
}
HELD = [name for name in TEMPLATES if name != "gemma4"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One adapter with the chat templates of several families, each with its way to write calls.

    Marks of calls are tokens of their own, as in published tokenizers; Mistral's is a special one.
    """
    root = tmp_path_factory.mktemp("calls")
    base = make_base(root / "base", "qwen3", context=4096, marks=MARKS)
    adapter = make_adapter(base, root / "adapter", seed=1)
    with ForkedEngine(base, "--served-name", "base") as engine:
        for name, template in TEMPLATES.items():
            reply = engine.load(name, adapter, chat_template=template)
            assert reply.status == 200, reply.text
        yield engine


def ask(engine: EngineProcess, **more: Any) -> Any:
    asked = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 500, "parallel_tool_calls": False}
    return engine.client().chat.completions.create(**{**chat("Hi"), **asked, **more})


def is_of_schema(call: Any) -> bool:
    found = json.loads(call.function.arguments)
    if call.function.name == "paint":
        return set(found) == {"colour"} and found["colour"] in ("red", "blue")
    return set(found) == {"queue", "priority"} and found["queue"] in ("oak", "elm")


@pytest.mark.parametrize("model", HELD)
def test_a_call_that_is_required_comes_in_the_familys_way_and_by_its_schema(
    models: EngineProcess, model: str
) -> None:
    for choice in ("required", ONE):
        (answer,) = ask(models, model=model, tool_choice=choice).choices
        assert answer.finish_reason == "tool_calls"
        assert answer.message.content is None
        (call,) = answer.message.tool_calls
        assert is_of_schema(call)
        assert len(call.id) == 9
        assert choice == "required" or call.function.name == "paint"


def test_a_stream_is_the_whole_answer(models: EngineProcess) -> None:
    (whole,) = ask(models, model="hermes").choices
    chunks = list(ask(models, model="hermes", stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.type) for call in calls] == [(0, "function")]
    expected = whole.message.tool_calls[0].function
    assert (calls[0].function.name, calls[0].function.arguments) == (expected.name, expected.arguments)
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_answer_of_a_tool_goes_back_into_the_conversation(models: EngineProcess) -> None:
    for model in HELD:
        message = ask(models, model=model).choices[0].message
        told = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"}
        said = [{"role": "user", "content": "Hi"}, message.model_dump(exclude_none=True), told]
        answer = ask(models, model=model, messages=said, tool_choice="auto", max_tokens=4)
        assert answer.usage.prompt_tokens > 0


def test_several_calls_come_unless_one_alone_is_asked_for(models: EngineProcess) -> None:
    asked = {"model": "hermes", "temperature": 2.0, "seed": 1, "n": 6, "max_tokens": 500}
    counts = [
        [
            len(choice.message.tool_calls or ())
            for choice in ask(models, parallel_tool_calls=many, **asked).choices
        ]
        for many in (True, False)
    ]
    assert max(counts[0]) > 1
    assert set(counts[1]) == {1}


def test_strict_tools_leave_text_free_and_hold_the_calls(models: EngineProcess) -> None:
    strict = [tool("paint", {**COLOUR, "additionalProperties": False}, strict=True)]
    for model in HELD:
        answer = ask(models, model=model, tools=strict, tool_choice="auto", max_tokens=24).choices[0]
        assert answer.message.content or answer.message.tool_calls


def test_an_answer_in_a_form_is_a_call_or_of_the_form(models: EngineProcess) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "t", "schema": TICKET, "strict": True}}
    strict = [tool("paint", {**COLOUR, "additionalProperties": False}, strict=True)]
    asked = {"model": "hermes", "tools": strict, "tool_choice": "auto", "response_format": form}
    choices = ask(models, temperature=2.0, seed=1, n=40, **asked).choices
    for choice in choices:
        if not choice.message.tool_calls:
            assert set(json.loads(choice.message.content)) == {"queue", "priority"}
    assert {bool(choice.message.tool_calls) for choice in choices} == {True, False}


def test_none_calls_nothing(models: EngineProcess) -> None:
    answer = ask(models, model="hermes", tool_choice="none", max_tokens=8).choices[0]
    assert answer.message.tool_calls is None


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({}, "tool_choice"),
        ({"tool_choice": ONE}, "tool_choice"),
        (
            {"tool_choice": "auto", "tools": [tool("f", COLOUR), tool("g", COLOUR, strict=True)]},
            "tools[1].function.strict",
        ),
    ],
)
def test_what_a_way_of_writing_cannot_be_held_to_is_refused_by_name(
    models: EngineProcess, change: dict[str, Any], param: str
) -> None:
    asked = {**chat("Hi"), "model": "gemma4", "tools": TOOLS, "tool_choice": "required", **change}
    reply = models.post("/v1/chat/completions", asked)
    assert reply.status == 400
    assert reply.json()["error"]["param"] == param


TAGGED = "<tool_call>\n<function=paint>\n<parameter=colour>\n%s\n</parameter>\n</function>\n</tool_call>"
OBJECT = '{"name": "paint", "parameters": {"colour": "%s"}}'
THOUGHT = "<|channel|>analysis<|message|>Red?<|end|><|start|>assistant"
TO_PAINT = '<|channel|>commentary to=functions.paint <|constrain|>json<|message|>{"colour": "%s"}'
FREE_OF_TOKENS = ("hermes", "mistral", "llama3_json", "qwen3_coder")
"""Ways whose marks may be plain text too."""
HELD_CALLS = {
    "hermes": '<tool_call>\n{"name": "paint", "arguments": {"colour": "%s"}}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "paint", "arguments": {"colour": "%s"}, "id": "abcdefgh1"}]',
    "llama3_json": OBJECT,
    "qwen3_coder": TAGGED,
    "llama4_json": f"<|python_start|><|python_end|>{OBJECT}",
    "openai": ' to=functions.paint<|channel|>commentary json<|message|>{"colour": "%s"}',
}
BESIDE_TEXT = {
    "hermes": f"Both.\n{HELD_CALLS['hermes']}\n{HELD_CALLS['hermes']}",
    "qwen3_coder": f"Both.\n{TAGGED}\n{TAGGED}",
    "llama4_json": f"<|python_start|>Both.<|python_end|>{OBJECT}{OBJECT}",
    "openai": f"{THOUGHT}{TO_PAINT}",
}


def possible(name: str, marks: tuple[str, ...], choice: str) -> Callable[[str], bool]:
    """Return what says whether an answer may be written where `paint` is strict or demanded."""
    (form,) = (form for form in FORMATS if form.name == name)
    tokenizer = make_tokenizer(marks=marks).backend_tokenizer
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    paint = tool("paint", {**COLOUR, "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}}})
    paint["function"]["strict"] = True
    asked = calls_form(read_tool_use([paint], choice, is_parallel=True), form, added)
    assert asked is not None
    grammars = Grammars(tokenizer.to_str(), tokenizer.get_vocab_size())

    def is_possible(text: str) -> bool:
        grammar = grammars.start(asked, frozenset({2}))
        for token in tokenizer.encode(text, add_special_tokens=False).ids:
            bits = grammar.possible()
            if not bits[token // 8] >> token % 8 & 1:
                return False
            grammar.accept(token)
        return bool(grammar.possible()[0] >> 2 & 1)  # it may end there

    return is_possible


@pytest.mark.parametrize(
    ("name", "marks"),
    [(name, marks) for name in HELD_CALLS for marks in ((), MARKS) if marks or name in FREE_OF_TOKENS],
    ids=lambda value: value if isinstance(value, str) else "tokens" if value else "text",
)
def test_what_strict_tools_are_held_to_is_what_templates_write(name: str, marks: tuple[str, ...]) -> None:
    is_possible = possible(name, marks, "auto")
    assert is_possible(HELD_CALLS[name] % "red")
    assert not is_possible(HELD_CALLS[name] % "green")
    assert is_possible("I painted nothing.")
    if name in BESIDE_TEXT:
        beside, count = BESIDE_TEXT[name], BESIDE_TEXT[name].count("%s")
        assert is_possible(beside % (("red", "blue")[:count]))
        assert not is_possible(beside % (("red", "green")[-count:]))


@pytest.mark.parametrize("name", HELD_CALLS)
def test_a_call_that_is_required_leaves_no_text(name: str) -> None:
    is_possible = possible(name, MARKS, "required")
    assert is_possible(HELD_CALLS[name] % "red")
    assert not is_possible(HELD_CALLS[name] % "green")
    assert not is_possible("I painted nothing.")
    assert not is_possible("")


def test_parameters_in_tags_are_text_or_json_by_their_schema() -> None:
    (form,) = (form for form in FORMATS if form.name == "qwen3_coder")
    tokenizer = make_tokenizer(marks=MARKS).backend_tokenizer
    properties = {
        "words": {"type": "string", "description": "as they are"},
        "count": {"type": "integer"},
        "is_new": {"type": "boolean"},
        "sizes": {"type": "array", "items": {"$ref": "#/$defs/size"}},
    }
    schema = {"type": "object", "properties": properties, "required": ["words"]}
    schema["$defs"] = {"size": {"type": "number", "minimum": 0}}
    use = read_tool_use([tool("f", schema)], "required", is_parallel=False)
    asked = calls_form(use, form, {"<tool_call>": tokenizer.token_to_id("<tool_call>")})
    assert asked is not None
    grammars = Grammars(tokenizer.to_str(), tokenizer.get_vocab_size())

    def is_possible(*parameters: tuple[str, str]) -> bool:
        written = "".join(f"<parameter={name}>\n{text}\n</parameter>\n" for name, text in parameters)
        grammar = grammars.start(asked, frozenset({2}))
        text = f"<tool_call>\n<function=f>\n{written}</function>\n</tool_call>"
        for token in tokenizer.encode(text, add_special_tokens=False).ids:
            bits = grammar.possible()
            if not bits[token // 8] >> token % 8 & 1:
                return False
            grammar.accept(token)
        return grammar.is_complete

    words = ("words", 'a "b"\n<c> & {d}')
    assert is_possible(words)
    assert is_possible(words, ("count", "-3"), ("is_new", "true"), ("sizes", "[1, 2.5]"))
    assert is_possible(words, ("is_new", "False"))
    assert not is_possible(("count", "3")), "what is required is missing"
    assert not is_possible(words, ("count", "three"))
    assert not is_possible(words, ("sizes", "[-1]"))
    assert not is_possible(words, ("is_new", "maybe"))
    assert not is_possible(words, ("other", "1"))


WRITTEN = {
    "openai": (GPT_OSS, ' to=functions.paint<|channel|>commentary json<|message|>{"colour": "red"}'),
    "llama4_json": (
        LLAMA4,
        '<|python_start|><|python_end|>{"name": "paint", "parameters": {"colour": "red"}}',
    ),
    "gemma4": (GEMMA4, '<|tool_call>call:paint{colour:<|"|>red<|"|>}<tool_call|>'),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_marks_that_are_special_tokens_are_seen_where_there_are_tools(name: str) -> None:
    (form,) = (form for form in FORMATS if form.name == name)
    family, written = WRITTEN[name]
    tokenizer = make_tokenizer(marks=[mark for mark in form.marks if mark.startswith("<|")])
    base = SimpleNamespace(backend=tokenizer.backend_tokenizer, tokenizer=tokenizer)
    model = cast("Any", SimpleNamespace(chat_template=family.chat_template))
    forms = ToolForms(cast("Any", base), cast("Any", None))
    use = read_tool_use(TOOLS, "auto", is_parallel=True)
    ids = tokenizer.encode(written, add_special_tokens=False)
    assert forms.decoder(use, model).decode(ids) == written
    assert forms.decoder(None, model).decode(ids) != written, "without tools they stay hidden"
    make_reader = forms.reader(use, model)
    assert make_reader is not None
    reader = make_reader()
    calls = [*reader.push(written).calls, *reader.finish().calls]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("paint", {"colour": "red"})]
    if name != "gemma4":
        return
    refused = read_tool_use(TOOLS, "required", is_parallel=True)
    with pytest.raises(FormRefusedError, match="can be none or auto only"):
        forms.form(cast("Any", SimpleNamespace(tools=refused, form=None)), model)


def test_text_around_calls_of_a_stream_is_kept_and_calls_are_counted() -> None:
    calls = ('{"name": "a", "arguments": {"n": 1}}', '{"name": "b"}')
    written = "I look." + "".join(f"\n<tool_call>\n{call}\n</tool_call>" for call in calls)
    request = cast("Any", SimpleNamespace(model="m", is_chat=True, include_usage=False, logprobs=None, n=1))
    writer = AnswerWriter(
        request, answer_id="i", created=1, texts=cast("Any", None), calls=lambda: CallReader(FORMATS[0], {})
    )
    lines = [writer.chunk(Update(0, letter, [], [], None)) for letter in written]
    lines.append(writer.chunk(Update(0, "", [], [], "stop")))
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "I look."
    found = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert [(call["index"], call["function"]["name"]) for call in found] == [(0, "a"), (1, "b")]
    assert [call["function"]["arguments"] for call in found] == ['{"n": 1}', "{}"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "a", "arguments": {"n": '),
        ("hermes", "<tool_call>call a</tool_call>"),
        ("hermes", "a < b <tool"),
        ("qwen3_coder", "<tool_call>\n<function=a>\nno parameter\n</function>\n</tool_call>"),
        ("mistral", '[TOOL_CALLS] {"name": "a"}'),
        ("llama3_json", '{"name": "David", "parameters": {}}'),
        ("llama3_json", '{"name": "a"}'),
        ("llama3_json", 'As JSON: {"name": "a", "parameters": {}}'),
    ],
)
def test_what_only_looks_like_a_call_stays_text(form: str, text: str) -> None:
    (way,) = (one for one in FORMATS if one.name == form)
    reader = CallReader(way, {"a": TICKET})
    pieces = [*(reader.push(letter) for letter in text), reader.finish()]
    assert "".join(piece.text for piece in pieces) == text
    assert not reader.has_calls
