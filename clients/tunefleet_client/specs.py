"""What a job may be given as: a JobSpec, a mapping shaped like a job file, or the path of one.

All three are judged by the rules of job files before anything is sent, so that
a wrong field is named here and now. PyYAML is needed only for the last two.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_client.errors import failure, typed
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["JobSource", "read_spec"]

JobSource: TypeAlias = JobSpec | Mapping[str, object] | str | os.PathLike[str]
"""A job as people have it at hand. Text is the path of a job file."""


async def read_spec(source: JobSource) -> JobSpec:
    """Return the spec that a source means.

    Relative paths of data and models are taken from the folder of a job file, or
    from the current folder for a mapping. A JobSpec is sent as it is.

    Raises:
        InvalidArgument: FIELD_INVALID; every wrong field is in `violations`.
    """
    if isinstance(source, JobSpec):
        return source
    return await asyncio.to_thread(_read, source)


def _read(source: Mapping[str, object] | str | os.PathLike[str]) -> JobSpec:
    try:
        # Here, because a client that only follows jobs needs no YAML.
        from tunefleet_core.spec import parse_job_file, parse_job_text
    except ImportError as error:
        raise failure(
            Reason.FIELD_INVALID,
            "Job files and mappings need PyYAML, which is not installed here.",
            hint="pip install pyyaml, or pass a JobSpec.",
            metadata={"module": error.name or ""},
        ) from error
    try:
        if not isinstance(source, Mapping):
            return parse_job_file(Path(source))
        # JSON is YAML: one reader judges job files, whatever they are written in.
        return parse_job_text(_json(source), base_dir=Path.cwd(), origin="job")
    except TunefleetError as error:
        raise _of_mapping(error) if isinstance(source, Mapping) else typed(error) from error


def _json(source: Mapping[str, object]) -> str:
    try:
        return json.dumps(source, default=_plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TunefleetError.field("job", f"holds a value that no job file can hold: {error}.") from error


def _plain(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise TypeError(f"{type(value).__name__} is no number, text, list or mapping")


def _of_mapping(error: TunefleetError) -> TunefleetError:
    """Return the error without line numbers, which a mapping does not have."""
    named = [item for item in error.violations if item.field]
    if not named:
        return typed(error)
    return failure(
        error.reason,
        "\n".join(f"{item.field}: {item.description}" for item in named),
        hint=f"Correct '{named[0].field}' and call again.",
        metadata={"field": named[0].field},
        violations=error.violations,
    )
