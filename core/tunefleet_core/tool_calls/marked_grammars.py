"""Grammars of calls that stand between marks, or are the whole answer: JSON, or parameters in tags."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from tunefleet_core.answer_forms import FormRefusedError
from tunefleet_core.tool_calls.held import HeldCalls, json_value, literal

__all__ = ["objects_in_marks", "tags_in_marks"]

_PARAMETER_END = "\n</parameter>\n"
_KEY = re.compile(r"[^>\n]+")
_SHAPE = frozenset({"type", "properties", "required", "additionalProperties"})
_DEFINITIONS = ("$defs", "definitions")
_SAYS_NOTHING = frozenset({"title", "description", "default", "examples", "$schema", "$id", *_DEFINITIONS})


def objects_in_marks(held: HeldCalls) -> str:
    """Write the grammar of calls that are JSON objects."""
    return _in_marks(held, [f"call_{at}: {_object(held, name)}" for at, name in enumerate(held.names)])


def tags_in_marks(held: HeldCalls) -> str:
    """Write the grammar of calls whose parameters stand in tags: texts as they are, all else as JSON.

    Raises:
        FormRefusedError: Arguments are asked to be what cannot be held in tags.
    """
    return _in_marks(held, [rule for at, name in enumerate(held.names) for rule in _tags(held, at, name)])


def _in_marks(held: HeldCalls, calls: list[str]) -> str:
    form = held.form
    begin, end = held.mark(form.begin), held.mark(form.end)
    rules = [f"call: {' | '.join(f'call_{at}' for at in range(len(held.names)))}", *calls]
    if not form.begin:
        rules += ["calls: call"]
    elif form.end:
        more = f'("\\n" {begin} body)*' if held.use.is_parallel else ""
        rules += [f"calls: {begin} rest", f"rest: body {more}", f'body: "\\n" call "\\n" {end}']
    else:
        more = '(", " call)*' if held.use.is_parallel else ""
        rules += [f"calls: {begin} rest", f'rest: " [" call {more} "]"', 'ID: /"[a-zA-Z0-9]{9}"/']
    return "\n".join([*held.start(_beside_text(form.begin, begin)), *rules])


def _beside_text(mark: str, begin: str) -> list[str]:
    if not mark:
        return ["start: calls | FREE", r"FREE: /\s*([^{\s](.|\n)*)?/"]
    if begin.startswith("<["):  # a token of its own, which no text holds
        return ["start: FREE | FREE calls", r"FREE: /(.|\n)*/"]
    return ["start: FREE | first rest", f"first[lazy]: FREE {begin}", r"FREE: /(.|\n)*/"]


def _object(held: HeldCalls, name: str) -> str:
    form = held.form
    opening = literal(f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{form.arguments}": ')
    value = json_value(held.schema(name))
    if form.end or not form.begin:
        return f'{opening} {value} "}}"'
    return f'{opening} {value} {literal(", " + json.dumps("id") + ": ")} ID "}}"'


def _tags(held: HeldCalls, at: int, name: str) -> Iterator[str]:
    opening, closing = literal(f"<function={name}>\n"), literal("</function>")
    schema = held.schema(name)
    if schema is None:
        yield f"call_{at}: {opening} call_{at}_any* {closing}"
        yield f"call_{at}_any: /<parameter=[^>\\n]+>\\n/ call_{at}_text"
        yield _text_rule(f"call_{at}_text")
        return
    field = held.use.field_of(name)
    _require(schema.keys() <= _SHAPE | _SAYS_NOTHING, field, schema.keys() - _SHAPE - _SAYS_NOTHING)
    asked: object = schema.get("properties") or {}
    needed: object = schema.get("required") or []
    if not isinstance(asked, dict) or not isinstance(needed, list):
        raise FormRefusedError(
            field, f"'{field}' must be a JSON Schema: 'properties' an object, 'required' a list."
        )
    properties, wanted = cast("dict[str, object]", asked), cast("list[object]", needed)
    unknown = [str(key) for key in wanted if key not in properties]
    _require(not unknown, f"{field}.required", unknown)
    unwritable = [key for key in properties if not _KEY.fullmatch(key)]
    _require(not unwritable, f"{field}.properties", unwritable)
    definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
    parameters: list[str] = []
    for number, (key, value) in enumerate(properties.items()):
        rule = f"call_{at}_{number}"
        yield f"{rule}: {literal(f'<parameter={key}>' + chr(10))} {rule}_value"
        yield from _value(f"{rule}_value", value, definitions, f"{field}.properties.{key}")
        parameters.append(rule if key in wanted else f"{rule}?")
    yield f"call_{at}: {opening} {' '.join(parameters)} {closing}"


def _value(rule: str, schema: object, definitions: Mapping[str, Any], field: str) -> Iterator[str]:
    """Yield the rules of one parameter's value and the tag behind it."""
    found = cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}
    end = literal(_PARAMETER_END)
    says = found.keys() - _SAYS_NOTHING
    if found.get("type") != "string":
        # Some templates write Python's words for these, and both are read.
        words = ' | "True" | "False"' if found.get("type") == "boolean" and says == {"type"} else ""
        yield f"{rule}: ({json_value({**definitions, **found})}{words}) {end}"
    elif "enum" in found or "const" in found:
        _require(says <= {"type", "enum", "const"}, field, says - {"type", "enum", "const"})
        choices: object = [found["const"]] if "const" in found else found["enum"]
        listed = cast("list[object]", choices) if isinstance(choices, list) else []
        texts = [text for text in listed if isinstance(text, str)]
        _require(bool(texts), field, ["enum"])
        yield f"{rule}: ({' | '.join(map(literal, texts))}) {end}"
    else:
        _require(says == {"type"}, field, says - {"type"})
        yield _text_rule(rule)


def _text_rule(rule: str) -> str:
    return f"{rule}[lazy]: /(.|\\n)*\\n<\\/parameter>\\n/"


def _require(is_held: bool, field: str, words: Iterable[str]) -> None:
    if not is_held:
        named = ", ".join(f"'{word}'" for word in sorted(words))
        raise FormRefusedError(
            field, f"'{field}' cannot be enforced where a model writes arguments in tags: it holds {named}."
        )
