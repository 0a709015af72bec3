"""The reward of a JSON schema: an answer that is JSON, and as the schema wants it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from tunefleet_core.rewards.reward import Reward, Scorer

__all__ = ["JSON_SCHEMA"]


def _make(options: Mapping[str, object]) -> Scorer:
    for name in options:
        if name != "schema":
            raise ValueError(f"{name} is no option; it takes schema")
    schema = options.get("schema")
    if not isinstance(schema, dict) or not schema:
        raise ValueError("schema must be a JSON schema, an object")
    try:
        import jsonschema
        from referencing import Registry
    except ModuleNotFoundError as error:
        raise ValueError(
            "needs the package jsonschema, which the environment of this backend does not have; "
            "use json_valid with required keys, or the backend trl"
        ) from error
    wanted = cast("Mapping[str, object]", schema)
    try:
        jsonschema.Draft202012Validator.check_schema(wanted)
    except jsonschema.SchemaError as error:
        raise ValueError(f"schema is no JSON schema: {error.message}") from error
    # An empty registry: nothing is ever fetched.
    validator = jsonschema.Draft202012Validator(wanted, registry=Registry())

    def is_valid(value: object) -> bool:
        return validator.is_valid(cast("dict[str, str]", value))

    def score(rows: Sequence[Mapping[str, object]], answers: Sequence[str]) -> Sequence[float]:
        return [_of(is_valid, answer) for answer in answers]

    return Scorer(score=score)


def _of(is_valid: Callable[[object], bool], answer: str) -> float:
    """Return 0 for what is no JSON, half for JSON, 1 for what the schema takes."""
    try:
        value: object = json.loads(answer)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0 if is_valid(value) else 0.5


JSON_SCHEMA = Reward(
    name="json_schema",
    summary="1 if the answer is JSON that a `schema` takes, half of it for other JSON, else 0.",
    make=_make,
)
