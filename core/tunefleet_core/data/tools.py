"""The tools of a row: functions with a JSON schema, as OpenAI's API and chat templates take them.

A schema that is wrong in form is refused: templates print it, or walk it and print half, and
the model would be trained to call a tool that no engine can be given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from tunefleet_core.data.json_text import check_text, check_value, read_json
from tunefleet_core.data.place import Place, did_you_mean, kind_of, shown

__all__ = ["Tool", "read_tools", "tool_name"]

Tool = Mapping[str, object]
"""`{"type": "function", "function": {"name": ..., "description": ..., "parameters": {schema}}}`."""

_SHAPE = (
    'Write each tool as {"type": "function", "function": {"name": "...", "description": "...", '
    '"parameters": {"type": "object", "properties": {...}, "required": [...]}}}'
)
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_PYTHON_TYPES: Mapping[str, str] = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "tuple": "array",
    "none": "null",
}


def tool_name(tool: Tool) -> str:
    """Return the name a tool is called by."""
    return str(cast("Mapping[str, object]", tool["function"])["name"])


def read_tools(place: Place, value: object) -> tuple[Tool, ...]:
    """Return the tools of a row; null and an empty list mean none, a string is read as JSON.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    if isinstance(value, str):  # as tables of one type per column keep them
        value = read_json(place, "tools", value, hint=_SHAPE)
    if value is None:
        return ()
    if not isinstance(value, list):
        place.refuse("tools", f"must be a list of functions, got {kind_of(value)}.", hint=_SHAPE)
    check_value(place, "tools", cast("object", value))
    items = cast("list[object]", value)
    tools = tuple(_tool(place, f"tools[{index}]", item) for index, item in enumerate(items))
    seen: dict[str, int] = {}
    for index, name in enumerate(map(tool_name, tools)):
        if name in seen:
            place.refuse(
                f"tools[{index}].function.name", f"is '{name}', which tools[{seen[name]}] is called already."
            )
        seen[name] = index
    return tools


def _tool(place: Place, field: str, item: object) -> Tool:
    tool = _object(place, field, item)
    if "function" not in tool and "name" in tool:
        place.refuse(
            field,
            "is a bare function; a tool names its type.",
            hint='Wrap it: {"type": "function", "function": {"name": ..., "parameters": ...}}',
        )
    if tool.get("type") != "function":
        got = "is missing" if "type" not in tool else f"must be 'function', got {shown(tool['type'])}"
        place.refuse(f"{field}.type", f"{got}.", hint=_SHAPE)
    if "function" not in tool:
        place.refuse(f"{field}.function", "is missing.", hint=_SHAPE)
    function = _object(place, f"{field}.function", tool["function"])
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        got = (
            "is missing"
            if name is None
            else f"must be 1 to 128 letters, digits or _ . : / -, got {shown(name)}"
        )
        place.refuse(f"{field}.function.name", f"{got}.", hint=_SHAPE)
    if function.get("description") is not None:
        check_text(place, f"{field}.function.description", function["description"])
    if function.get("parameters") is not None:
        _parameters(place, f"{field}.function.parameters", function["parameters"])
    return tool


def _parameters(place: Place, field: str, value: object) -> None:
    schema: Mapping[str, object] = _object(place, field, value)
    if schema and schema.get("type") != "object":
        near = " Put them below 'properties'." if "type" not in schema else ""
        got = "nothing" if "type" not in schema else shown(schema["type"])
        place.refuse(f"{field}.type", f"must be 'object', got {got}.{near}", hint=_SHAPE)
    waiting: list[tuple[str, Mapping[str, object]]] = [(field, schema)]
    while waiting:
        where, one = waiting.pop()
        waiting.extend(_inner_schemas(place, where, one))
        _check_schema(place, where, one)


def _check_schema(place: Place, field: str, schema: Mapping[str, object]) -> None:
    kinds = schema.get("type")
    for kind in cast("list[object]", kinds) if isinstance(kinds, list) else [kinds]:
        if kind is not None and kind not in _TYPES:
            word = str(kind).lower()
            near = f"; did you mean '{_PYTHON_TYPES[word]}'?" if word in _PYTHON_TYPES else ""
            near = near or did_you_mean(word, _TYPES)
            place.refuse(f"{field}.type", f"must be one of {', '.join(_TYPES)}, got {shown(kind)}{near}.")
    required = schema.get("required")
    if required is None:
        return
    if not isinstance(required, list):
        place.refuse(f"{field}.required", f"must be a list of names, got {kind_of(required)}.")
    properties = schema.get("properties")
    known = cast("dict[str, object]", properties) if isinstance(properties, dict) else {}
    for index, name in enumerate(cast("list[object]", required)):
        if not isinstance(name, str) or name not in known:
            near = did_you_mean(name, known) if isinstance(name, str) else ""
            place.refuse(f"{field}.required[{index}]", f"is {shown(name)}, which is no property{near}.")


def _inner_schemas(
    place: Place, field: str, schema: Mapping[str, object]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    properties = schema.get("properties")
    if properties is not None:
        for name, inner in _object(place, f"{field}.properties", properties).items():
            yield from _inner(place, f"{field}.properties.{name}", inner)
    if schema.get("items") is not None:
        yield from _inner(place, f"{field}.items", schema["items"])
    for word in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(word)
        if choices is None:
            continue
        if not isinstance(choices, Sequence) or isinstance(choices, str):
            place.refuse(f"{field}.{word}", f"must be a list of schemas, got {kind_of(choices)}.")
        for index, inner in enumerate(cast("Sequence[object]", choices)):
            yield from _inner(place, f"{field}.{word}[{index}]", inner)


def _inner(place: Place, field: str, schema: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    if not isinstance(schema, bool):  # true and false are schemas: anything, nothing
        yield field, _object(place, field, schema)


def _object(place: Place, field: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        place.refuse(field, f"must be an object, got {kind_of(value)}.", hint=_SHAPE)
    return cast("dict[str, object]", value)
