"""Read a request body once and put the engine's model name into it.

Only the bytes of the value of `model` are exchanged, and those of a role `developer`, which engines
know as `system`; every other byte reaches the engine as the client wrote it (number spelling, escapes,
key order). That is also a guard: what was checked here and what the engine reads cannot differ
through a second serialisation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, cast

from tunefleet_services.gateway.errors import GatewayError

__all__ = ["RequestBody", "parse_body", "parse_object"]

_SPACE = re.compile(r"[ \t\n\r]*")
_DEVELOPER = "developer"
_SYSTEM = '"system"'


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBody:
    """A checked body: what the gateway has to know of it, and where in it other words are put.

    Attributes:
        model: The model's name, as the client says it.
        is_stream: Whether the client asked for a stream.
        fields: The whole of it, as read.
    """

    model: str
    is_stream: bool
    fields: Mapping[str, object]
    _text: str
    _model_span: tuple[int, int]
    _developer_spans: tuple[tuple[int, int], ...]

    def for_engine(self, engine_model: str) -> bytes:
        """Return the body with another model name, developers as systems, and every other byte unchanged."""
        text = self._text
        words = [(*self._model_span, json.dumps(engine_model))]
        words += [(*span, _SYSTEM) for span in self._developer_spans]
        for start, end, word in sorted(words, reverse=True):  # from the end: spans before it stay right
            text = text[:start] + word + text[end:]
        return text.encode()


def parse_body(data: bytes) -> RequestBody:
    """Check a request body.

    Args:
        data: The whole body, UTF-8 JSON.

    Raises:
        GatewayError: 400 if it is no JSON object, has a top-level key twice (the engine might
            read the other one), or has no usable `model`; the message names the field.
    """
    text, members = _read(data)
    if "model" not in members:
        raise _wrong_model("The request has no field 'model'.")
    model, start, end = members["model"]
    if not isinstance(model, str) or not model:
        raise _wrong_model("Field 'model' is not a non-empty string.")
    is_stream = "stream" in members and members["stream"][0] is True
    fields = {name: value for name, (value, _, _) in members.items()}
    messages, at, _ = members.get("messages", (None, 0, 0))
    return RequestBody(
        model=model,
        is_stream=is_stream,
        fields=fields,
        _text=text,
        _model_span=(start, end),
        _developer_spans=tuple(_developers(text, messages, at)),
    )


def parse_object(data: bytes) -> dict[str, object]:
    """Return a body that the gateway itself has to understand.

    Raises:
        GatewayError: 400 if it is no JSON object, or has a top-level key twice.
    """
    _, members = _read(data)
    return {name: value for name, (value, _, _) in members.items()}


def _read(data: bytes) -> tuple[str, dict[str, tuple[object, int, int]]]:
    """Return the text of a body and the members of its object. Raises GatewayError."""
    try:
        text = data.decode()
        members, end = _members(text, _skip(text, 0))
        _expect_end(text, end)
        return text, members
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise _malformed("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:  # NaN, Infinity, a number with thousands of digits
        raise _malformed(str(error)) from error


def _members(text: str, at: int) -> tuple[dict[str, tuple[object, int, int]], int]:
    """Return value, start and end of each member of the object that begins there, and its own end.

    Raises:
        json.JSONDecodeError: If there is no JSON object.
        GatewayError: If a key occurs twice.
    """
    members: dict[str, tuple[object, int, int]] = {}
    at = _skip(text, _expect(text, at, "{"))
    if text.startswith("}", at):
        return members, at + 1
    while True:
        key, at = _value(text, at)
        if not isinstance(key, str):
            raise json.JSONDecodeError("Expected a key in double quotes", text, at)
        start = _skip(text, _expect(text, _skip(text, at), ":"))
        value, end = _value(text, start)
        if key in members:
            raise GatewayError(
                400,
                f"The request has field '{key}' twice. Send it once.",
                code="duplicate_field",
                param=key,
            )
        members[key] = (value, start, end)
        at = _skip(text, end)
        if text.startswith("}", at):
            return members, at + 1
        at = _skip(text, _expect(text, at, ","))


def _developers(text: str, messages: object, at: int) -> Iterator[tuple[int, int]]:
    """Return where a message says that it is of the developer.

    Args:
        text: The body.
        messages: The value of its `messages`, if it has any.
        at: Where that begins.

    Raises:
        GatewayError: If such a message has a key twice.
    """
    turns = cast("list[object]", messages) if isinstance(messages, list) else []
    roles = [
        cast("dict[str, object]", turn).get("role") if isinstance(turn, dict) else None for turn in turns
    ]
    left = roles.count(_DEVELOPER)
    for role in roles:
        if not left:  # nearly always at once; else behind the first message
            return
        at = _skip(text, at + 1)  # behind the bracket or the comma
        if role == _DEVELOPER:
            members, at = _members(text, at)
            yield members["role"][1:]
            left -= 1
        else:
            _, at = _value(text, at)
        at = _skip(text, at)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _value(text: str, at: int) -> tuple[object, int]:
    return cast("tuple[object, int]", _DECODER.raw_decode(text, at))


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, token: str) -> int:
    if not text.startswith(token, at):
        raise json.JSONDecodeError(f"Expected '{token}'", text, at)
    return at + 1


def _expect_end(text: str, at: int) -> None:
    end = _skip(text, at)
    if end != len(text):
        raise json.JSONDecodeError("Extra data after the object", text, end)


def _malformed(why: str) -> GatewayError:
    return GatewayError(
        400,
        f"The request body is not a JSON object: {why}. Send one JSON object in UTF-8.",
        code="invalid_json",
    )


def _wrong_model(fact: str) -> GatewayError:
    return GatewayError(
        400,
        f"{fact} Name one of the models that GET /v1/models lists.",
        code="missing_required_parameter",
        param="model",
    )
