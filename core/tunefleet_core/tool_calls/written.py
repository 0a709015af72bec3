"""A call that a model wrote, and a way to write calls.

What each family writes is said by its chat template (`plugins/families`); the ways that are known are in
`formats.py`.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

__all__ = ["Call", "CallFormat", "Schemas", "call_of", "call_with", "parse_json"]

Schemas: TypeAlias = Mapping[str, Mapping[str, Any]]
"""JSON Schema of the arguments, by name of the function."""

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9  # Mistral's templates take no other length


def _new_id() -> str:
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that a model wrote.

    Attributes:
        name: The function.
        arguments: A JSON object as text.
        id: What the answer of the tool refers to: nine letters and digits.
    """

    name: str
    arguments: str
    id: str = field(default_factory=_new_id)


def _reads_none(text: str, schemas: Schemas) -> list[Call] | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """A way to write calls.

    Attributes:
        name: Slug, such as `hermes`.
        begin: What a call begins with; empty: a call is the whole answer, or has a reader of its own.
        end: What it ends with; empty: it goes on to the end of the answer.
        inner: Further marks that stand in a call, and may be special tokens of the tokenizer.
        arguments: Name of the member with the arguments, where a call between marks is a JSON object.
        read: Takes what stands between begin and end and the schemas of arguments by name of the function;
            gives the calls, or None if these are none.
    """

    name: str
    begin: str = ""
    end: str = ""
    inner: tuple[str, ...] = ()
    arguments: str = ""
    read: Callable[[str, Schemas], list[Call] | None] = _reads_none

    @property
    def marks(self) -> tuple[str, ...]:
        """What has to be seen of an answer for its calls to be read."""
        return tuple(mark for mark in (self.begin, self.end, *self.inner) if mark)


def call_of(value: object, member: str) -> Call | None:
    """Return the call that an object with a name, and arguments in `member`, is; None if it is none."""
    if not isinstance(value, dict):
        return None
    found = cast("dict[str, object]", value)
    name, arguments, own = found.get("name"), found.get(member, {}), found.get("id")
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    text = json.dumps(arguments, ensure_ascii=False)
    return Call(name=name, arguments=text, id=own if isinstance(own, str) and own else _new_id())


def call_with(name: str, arguments: str) -> Call | None:
    """Return the call of a function with arguments as JSON text; None if these are no object."""
    return call_of({"name": name, "arguments": parse_json(arguments.strip() or "{}")}, "arguments")


def parse_json(text: str) -> object:
    """Return the value of a JSON text; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
