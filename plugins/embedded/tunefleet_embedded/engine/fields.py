"""Reading a JSON body field by field:

A wrong value, or a field this engine would have to ignore, is a 400 naming it.
"""

from __future__ import annotations

import math
from typing import Any

from tunefleet_embedded.engine.errors import ApiError


class Fields:
    """A JSON object being taken apart. Null counts as left out, as OpenAI has it."""

    def __init__(self, body: object) -> None:
        if not isinstance(body, dict):
            raise ApiError("The body must be a JSON object.")
        self._left: dict[str, Any] = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str, default: Any = None) -> Any:
        """The raw value, to be checked by the caller."""
        return self._left.pop(name, default)

    def string(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise ApiError(f"'{name}' must be a non-empty string.", param=name)
        return value

    def optional_string(self, name: str) -> str | None:
        return self.string(name) if name in self._left else None

    def boolean(self, name: str, default: bool) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise ApiError(f"'{name}' must be true or false, not {value!r}.", param=name)
        return value

    def integer(self, name: str, *, low: int, high: int | None = None) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < low
            or (high is not None and value > high)
        ):
            allowed = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ApiError(f"'{name}' must be a whole number {allowed}, not {value!r}.", param=name)
        return value

    def number(self, name: str, default: float, *, low: float, high: float, above_low: bool = False) -> float:
        value = self.take(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < low or value > high or (above_low and value == low):
            bounds = f"above {low} and up to {high}" if above_low else f"from {low} to {high}"
            raise ApiError(f"'{name}' must be a number {bounds}, not {value!r}.", param=name)
        return float(value)

    def token_ids(self, name: str) -> list[int] | None:
        value = self.take(name)
        if value is None:
            return None
        if not is_token_ids(value):
            raise ApiError(f"'{name}' must be a list of token ids.", param=name)
        return value

    def refuse_rest(self, *, without_effect: frozenset[str], neutral: dict[str, tuple[Any, ...]]) -> None:
        """Refuses whatever was not read, except fields without effect and values that mean the default."""
        for name, value in self._left.items():
            if name in without_effect or any(_is_same(value, one) for one in neutral.get(name, ())):
                continue
            raise ApiError(
                f"'{name}' is not supported by this engine; leave it out.",
                param=name,
                code="unsupported_parameter",
            )


def is_token_ids(value: object) -> bool:
    """A list of whole numbers from 0."""
    return isinstance(value, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value
    )


def _is_same(value: Any, neutral: Any) -> bool:
    return type(value) is type(neutral) and value == neutral
