"""Read a job file: YAML with exactly the fields of the proto `JobSpec`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from tunefleet.job.v1.spec_pb2 import BaseModel, JobSpec
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError
from tunefleet_core.spec.filling import Filling, Problem, fill
from tunefleet_core.spec.rules import find_violations
from tunefleet_core.spec.tree import MAX_BYTES, TreeError, read_tree

__all__ = ["parse_job_file", "parse_job_text"]

_DATASET = re.compile(r"(projects/[^/]+/)?datasets/[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_MOST_IN_MESSAGE = 10
_BOM = b"\xef\xbb\xbf"


def parse_job_file(path: Path | str) -> JobSpec:
    """Read and check a job file; relative paths in it are taken from its folder.

    Raises:
        TunefleetError: FIELD_INVALID; the message has one line per problem, such as
            `job.yaml:12: train.optim.epochs: must be greater than 0, got 0`.

    Example:
        >>> spec = parse_job_file("job.yaml")  # doctest: +SKIP
        >>> spec.train.base.model  # doctest: +SKIP
        'Qwen/Qwen3-0.6B'
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            content = file.read(MAX_BYTES + len(_BOM) + 1)
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise TunefleetError(
            Reason.FIELD_INVALID,
            f"The job file '{source}' cannot be read: {reason or error}.",
            hint="Name a job file: tunefleet train job.yaml",
            metadata={"path": str(source)},
        ) from error
    text = _decoded(content, source.name)
    return parse_job_text(text, base_dir=source.absolute().parent, origin=source.name)


def parse_job_text(text: str, *, base_dir: Path | None, origin: str) -> JobSpec:
    """Read and check the text of a job file.

    Args:
        text: YAML 1.2.
        base_dir: Folder that relative paths are taken from; None leaves them as they are.
        origin: The name that messages begin with.

    Raises:
        TunefleetError: FIELD_INVALID with every problem that was found.
    """
    try:
        tree = read_tree(text)
    except TreeError as error:
        problem = Problem(line=error.line, field="", description=error.description)
        raise _refusal(origin, [problem]) from error
    spec = JobSpec()
    filling = fill(spec, tree)
    problems = [*filling.problems, *_violations(spec, filling)]
    if problems:
        raise _refusal(origin, sorted(problems, key=lambda problem: problem.line))
    if base_dir is not None:
        _make_absolute(spec, base_dir)
    return spec


def _decoded(content: bytes, origin: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) == MAX_BYTES + len(_BOM) + 1:
            # The bound may have cut a character: what is wrong then is the size, which is said later.
            return content.decode("utf-8-sig", "replace")
        offset = error.start + (len(_BOM) if content.startswith(_BOM) else 0)
        problem = Problem(
            line=content.count(b"\n", 0, offset) + 1,
            field="",
            description=f"is not UTF-8: byte 0x{content[offset]:02x} at offset {offset}",
            hint=f"Save {origin} as UTF-8.",
        )
        raise _refusal(origin, [problem]) from error


def _violations(spec: JobSpec, filling: Filling) -> list[Problem]:
    """Return the broken rules, but not of fields that could not even be read."""
    unread = {problem.field for problem in filling.problems}
    # An unknown or misspelt field is often the very one that is then missing.
    if "" in unread:
        return []
    return [
        Problem(
            line=filling.line_of(violation.field), field=violation.field, description=violation.description
        )
        for violation in find_violations(spec)
        if not any(_covers(field, violation.field) for field in unread)
    ]


def _covers(unread: str, field: str) -> bool:
    """Return whether a violation only follows from a field that was noted already."""
    return field == unread or field.startswith((f"{unread}.", f"{unread}[")) or unread.startswith(f"{field}.")


def _refusal(origin: str, problems: Sequence[Problem]) -> TunefleetError:
    lines = [
        f"{origin}:{problem.line}: {problem.field}: {problem.description}"
        if problem.field
        else f"{origin}:{problem.line}: {problem.description}"
        for problem in problems
    ]
    more = len(lines) - _MOST_IN_MESSAGE
    shown = lines if more <= 0 else [*lines[:_MOST_IN_MESSAGE], f"{origin}: and {more} more"]
    first = problems[0]
    return TunefleetError(
        Reason.FIELD_INVALID,
        "\n".join(shown),
        hint=first.hint or f"Correct line {first.line} of {origin}, then run the command again.",
        metadata={"path": origin, "line": str(first.line), "field": first.field},
        violations=[FieldViolation(field=item.field, description=item.description) for item in problems],
    )


def _make_absolute(spec: JobSpec, folder: Path) -> None:
    if spec.HasField("train"):
        _model(spec.train.base, folder)
        if spec.train.method.distill.teacher.HasField("model"):
            _model(spec.train.method.distill.teacher.model, folder)
        for reward in (*spec.train.method.grpo.rewards, *spec.train.method.rloo.rewards):
            path = MessageToDict(reward.options).get("file")
            if reward.name == "python" and isinstance(path, str):
                reward.options["file"] = _absolute(path, folder)
        data = spec.train.data
        for source in data.train:
            source.source = _absolute(source.source, folder)
        if data.validation:
            data.validation = _absolute(data.validation, folder)
        if data.test:
            data.test = _absolute(data.test, folder)
        if data.general:
            data.general = _absolute(data.general, folder)
    elif spec.HasField("evaluate"):
        _model(spec.evaluate.model, folder)
        spec.evaluate.data = _absolute(spec.evaluate.data, folder)
        if spec.evaluate.examples:
            spec.evaluate.examples = _absolute(spec.evaluate.examples, folder)


def _model(base: BaseModel, folder: Path) -> None:
    """Make a model absolute if it is a folder; a Hub id and `models/<name>` stay as they are."""
    is_path = base.model.startswith(("./", "../", "/", "~")) or base.model in {".", ".."}
    if is_path or (folder / base.model).is_dir():
        base.model = _absolute(base.model, folder)


def _absolute(path: str, folder: Path) -> str:
    if _DATASET.fullmatch(path):
        return path  # rows that the fleet keeps; a file of that name is ./datasets/NAME
    # normpath, not resolve: a symlink in the path is kept as the person wrote it
    return os.path.normpath(folder / os.path.expanduser(path))
