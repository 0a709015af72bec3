"""`--set path=value`: change single fields of a job file for one run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import yaml
from google.protobuf import json_format

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.errors import TunefleetError
from tunefleet_core.spec import parse_job_file, parse_job_text, spec_to_yaml

__all__ = ["read_job", "read_settings"]

_INDEX = re.compile(r"^(?P<name>[^\[\]]+)\[(?P<index>[0-9]{1,6})\]$")


def read_job(path: str, overrides: Sequence[str]) -> JobSpec:
    """Read a job file and apply overrides, checked by the same rules.

    Args:
        path: The job file.
        overrides: Such as `train.optim.epochs=1` or `train.data.train[0].source=a.jsonl`;
            relative paths in them are taken from the current folder.

    Raises:
        TunefleetError: FIELD_INVALID for a wrong file or a wrong override.
    """
    spec = parse_job_file(path)
    if not overrides:
        return spec
    content = cast("dict[str, object]", yaml.safe_load(spec_to_yaml(spec)))
    _apply(content, overrides)
    # JSON is YAML: the reader of job files judges the result, whatever was set.
    text = json.dumps(content)
    origin = "--set"
    try:
        return parse_job_text(text, base_dir=Path.cwd(), origin=origin)
    except TunefleetError as error:
        raise _without_line(error, origin) from error


def _without_line(error: TunefleetError, origin: str) -> TunefleetError:
    """Return an error about what was set without the line number, which counts in no file of the user."""
    hint = error.hint
    if hint.startswith("Correct line"):
        hint = "Correct what --set says, then run the command again."
    return TunefleetError(
        error.reason,
        error.message.replace(f"{origin}:1: ", f"{origin}: "),
        hint=hint,
        metadata=error.metadata,
        violations=error.violations,
    )


def read_settings(overrides: Sequence[str]) -> EngineSettings:
    """Return settings of an engine, such as `tensor_parallel=2` or `options.max-num-seqs=64`.

    Raises:
        TunefleetError: FIELD_INVALID for what is no setting, or no value of one.
    """
    content: dict[str, object] = {}
    _apply(content, overrides)
    try:
        return json_format.ParseDict(content, EngineSettings())
    except json_format.ParseError as error:
        raise TunefleetError.field("--set", str(error)) from error


def _apply(content: dict[str, object], overrides: Sequence[str]) -> None:
    for override in overrides:
        field, equals, value = override.partition("=")
        if not equals or not field:
            raise TunefleetError.field("--set", f"'{override}' is not path=value.")
        _set(content, field.split("."), _value(value, field), whole=field)


def _set(content: dict[str, object], path: Sequence[str], value: object, *, whole: str) -> None:
    here = content
    for part in path[:-1]:
        here = _step(here, part, whole)
    match = _INDEX.match(path[-1])
    if match is None:
        here[path[-1]] = value
        return
    items = _items(here, match["name"], int(match["index"]), whole)
    items[int(match["index"])] = value


def _step(content: dict[str, object], part: str, whole: str) -> dict[str, object]:
    match = _INDEX.match(part)
    if match is None:
        inner = content.setdefault(part, {})
    else:
        inner = _items(content, match["name"], int(match["index"]), whole)[int(match["index"])]
    if not isinstance(inner, dict):
        if isinstance(inner, list):
            raise TunefleetError.field(
                whole, f"'{part}' is a list.", hint=f"Say which element of it, such as {part}[0]."
            )
        raise TunefleetError.field(whole, f"'{part}' is a value, it has no fields.")
    return cast("dict[str, object]", inner)


def _items(content: dict[str, object], name: str, index: int, whole: str) -> list[object]:
    items = content.get(name)
    if not isinstance(items, list) or index >= len(cast("list[object]", items)):
        raise TunefleetError.field(whole, f"'{name}' has no element {index}.")
    return cast("list[object]", items)


def _value(text: str, whole: str) -> object:
    """Return a value as a job file would have it: number, list, mapping, else text."""
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError):
        if not text.startswith(("[", "{")):
            return text
    try:
        # Through JSON: dates and the like are texts in a job file.
        return cast(object, json.loads(json.dumps(yaml.safe_load(text), default=str)))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "it is nested too deeply, or has keys that are no texts"
        raise TunefleetError.field(
            whole,
            f"'{text[:60]}' is no list and no mapping: {problem}.",
            hint=f"Close what is opened, and quote all of it for the shell: --set '{whole}=[a, b]'",
        ) from error
