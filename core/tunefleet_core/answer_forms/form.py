"""What `response_format` of a chat asks for.

Source: OpenAI's API reference, https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

__all__ = ["AnswerForm", "FormRefusedError", "read_form"]

_FIELD = "response_format"
_SCHEMA_FIELD = f"{_FIELD}.json_schema.schema"


class FormRefusedError(Exception):
    """A form that is not understood or cannot be enforced.

    Attributes:
        field: The field of the request that asks for it.
        message: What is wrong, for the client.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """What an answer has to be.

    Attributes:
        schema: A JSON Schema as JSON text. Members are written in the order of its properties.
        lark: In its place a grammar in llguidance's Lark, for what is no JSON alone.
        field: The field of the request that asks for it, to be named if it cannot be had.
    """

    schema: str = ""
    lark: str = ""
    field: str


def read_form(response_format: object) -> AnswerForm | None:
    """Return the form that a request asks for; None if the answer is free.

    Raises:
        FormRefusedError: It is no such object, or of a type that OpenAI does not have.
    """
    if response_format is None:
        return None
    asked = _object(response_format)
    match asked.get("type"):
        case "text":
            return None
        case "json_object":
            return AnswerForm(schema='{"type": "object"}', field=_FIELD)
        case "json_schema":
            schema = _object(asked.get("json_schema")).get("schema")
            if not isinstance(schema, dict):
                raise FormRefusedError(_SCHEMA_FIELD, f"'{_SCHEMA_FIELD}' must be a JSON Schema, an object.")
            return AnswerForm(schema=json.dumps(schema), field=_SCHEMA_FIELD)
        case _:
            raise FormRefusedError(
                _FIELD, f"'{_FIELD}' must be an object of type text, json_object or json_schema."
            )


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
