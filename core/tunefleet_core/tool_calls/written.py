"""How families write calls of tools.

What each family writes is said by its chat template (`plugins/families`); here is how that is read.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

__all__ = ["FORMATS", "Call", "CallFormat"]

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9  # Mistral's templates take no other length
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*\n?(.*?)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)

_Schemas = Mapping[str, Mapping[str, Any]]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """A way to write calls.

    Attributes:
        name: Slug, such as `hermes`.
        begin: What a call begins with; empty: a call is the whole answer.
        end: What it ends with; empty: it goes on to the end of the answer.
        arguments: Name of the member with the arguments, where a call is a JSON object.
        read: Takes what stands between both and the schemas of arguments by name of the function;
            gives the calls, or None if these are none.
    """

    name: str
    begin: str = ""
    end: str = ""
    arguments: str = ""
    read: Callable[[str, _Schemas], list[Call] | None]


def _one(text: str, member: str) -> list[Call] | None:
    found = _call_of(_json(text), member)
    return [found] if found else None


def _whole(text: str, schemas: _Schemas) -> list[Call] | None:
    """Read an answer that is a call, and not an object that merely has a name: no mark tells them apart."""
    value = _json(text)
    is_call = isinstance(value, dict) and "parameters" in value and value.get("name") in schemas
    return _one(text, "parameters") if is_call else None


def _several(text: str) -> list[Call] | None:
    listed = _json(text)
    if not isinstance(listed, list) or not listed:
        return None
    calls = [_call_of(one, "arguments") for one in cast("list[object]", listed)]
    return cast("list[Call]", calls) if all(calls) else None


def _call_of(value: object, member: str) -> Call | None:
    if not isinstance(value, dict):
        return None
    found = cast("dict[str, object]", value)
    name, arguments, own = found.get("name"), found.get(member, {}), found.get("id")
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    text = json.dumps(arguments, ensure_ascii=False)
    return Call(name=name, arguments=text, id=own if isinstance(own, str) and own else _new_id())


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _tagged(text: str, schemas: _Schemas) -> list[Call] | None:
    """Read parameters in tags of their own: texts stand as they are, everything else as JSON."""
    if (found := _FUNCTION.fullmatch(text)) is None:
        return None
    name, body = found[1].strip(), found[2]
    if _PARAMETER.sub("", body).strip():
        return None
    properties = cast("Mapping[str, Any]", schemas.get(name, {}).get("properties") or {})
    arguments = {key: _value(text, properties.get(key)) for key, text in _PARAMETER.findall(body)}
    return [Call(name=name, arguments=json.dumps(arguments, ensure_ascii=False))]


def _value(text: str, schema: object) -> object:
    kind = cast("dict[str, object]", schema).get("type") if isinstance(schema, dict) else None
    if kind == "string":
        return text
    read = _json({"True": "true", "False": "false", "None": "null"}.get(text, text))
    return text if read is None and text not in ("null", "None") else read


FORMATS = (
    CallFormat(
        name="hermes",
        begin="<tool_call>",
        end="</tool_call>",
        arguments="arguments",
        read=lambda text, _: _one(text, "arguments"),
    ),
    CallFormat(name="qwen3_coder", begin="<tool_call>", end="</tool_call>", read=_tagged),
    CallFormat(
        name="mistral", begin="[TOOL_CALLS]", arguments="arguments", read=lambda text, _: _several(text)
    ),
    CallFormat(name="llama3_json", arguments="parameters", read=_whole),
)
"""Named as vLLM names its parsers."""
