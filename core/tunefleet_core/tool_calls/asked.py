"""What a request asks of tools: which there are, and whether one has to be called.

Source: OpenAI's API reference, https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from tunefleet_core.answer_forms import FormRefusedError

__all__ = ["ToolUse", "read_tool_use"]

_FIELD = "tool_choice"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The tools of a request.

    Attributes:
        schemas: JSON Schema of the arguments by name of the function, in the order of the request.
        strict: Functions whose arguments have to be of their schema wherever they are called.
        choice: Whether the model may call, or has to.
        only: The one function that has to be called; empty: any.
        is_parallel: Whether an answer may hold several calls.
    """

    schemas: Mapping[str, Mapping[str, Any]]
    strict: frozenset[str]
    choice: Literal["none", "auto", "required"]
    only: str
    is_parallel: bool

    @property
    def must_call(self) -> bool:
        """Whether an answer without a call is none."""
        return self.choice == "required"

    def schema_text(self, name: str) -> str:
        """Return the schema of a function's arguments as JSON text."""
        return json.dumps(self.schemas[name])

    def field_of(self, name: str) -> str:
        """Return the field of the request that holds the schema of a function."""
        return f"tools[{list(self.schemas).index(name)}].function.parameters"


def read_tool_use(tools: Sequence[Mapping[str, Any]], choice: object, *, is_parallel: bool) -> ToolUse:
    """Return what a request asks for.

    Args:
        tools: Each with a `function` and its `name`.
        choice: Its `tool_choice`; None: left out.
        is_parallel: Its `parallel_tool_calls`.

    Raises:
        FormRefusedError: A value is wrong, or one that OpenAI has not for function tools.
    """
    schemas: dict[str, Mapping[str, Any]] = {}
    strict: set[str] = set()
    for index, tool in enumerate(tools):
        function = cast("Mapping[str, Any]", tool["function"])
        name = str(function["name"])
        if name in schemas:
            field = f"tools[{index}].function.name"
            raise FormRefusedError(field, f"'{field}': there is a function '{name}' already.")
        schemas[name] = _schema(function.get("parameters"), f"tools[{index}].function.parameters")
        if _is_strict(function.get("strict"), f"tools[{index}].function.strict"):
            strict.add(name)
    asked, only = _choice(choice, schemas)
    return ToolUse(
        schemas=schemas, strict=frozenset(strict), choice=asked, only=only, is_parallel=is_parallel
    )


def _schema(value: object, field: str) -> Mapping[str, Any]:
    if value is None:
        return {"type": "object"}
    if not isinstance(value, dict):
        raise FormRefusedError(field, f"'{field}' must be a JSON Schema, an object.")
    schema = cast("dict[str, Any]", value)
    if schema.get("type", "object") != "object":
        raise FormRefusedError(field, f"'{field}.type' must be object: arguments are one.")
    return {**schema, "type": "object"}  # also where the schema leaves it out


def _is_strict(value: object, field: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise FormRefusedError(field, f"'{field}' must be true or false.")
    return value is True


def _choice(value: object, schemas: Mapping[str, object]) -> tuple[Literal["none", "auto", "required"], str]:
    if value is None:
        return "auto", ""
    if value == "required" and not schemas:
        raise FormRefusedError(_FIELD, f"'{_FIELD}' is required, and there are no 'tools' to call.")
    if value in ("none", "auto", "required"):
        return value, ""
    name = _named(value)
    if name is None:
        raise FormRefusedError(
            _FIELD, f"'{_FIELD}' must be none, auto, required, or an object of type function with its name."
        )
    if name not in schemas:
        field = f"{_FIELD}.function.name"
        raise FormRefusedError(field, f"'{field}': 'tools' has no function '{name}'.")
    return "required", name


def _named(value: object) -> str | None:
    asked = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    function = asked.get("function")
    name = cast("dict[str, object]", function).get("name") if isinstance(function, dict) else None
    return name if asked.get("type") == "function" and isinstance(name, str) else None
