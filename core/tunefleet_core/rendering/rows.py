"""From the resolved data files to training rows: prove the files, render, judge lengths, weigh."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeVar

from tunefleet.job.v1.resolved_pb2 import ResolvedData, ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_core.data import Row, file_digest, mixed
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError
from tunefleet_core.rendering.renderer import RenderedRow, Renderer, TemplateRefusedError
from tunefleet_core.rendering.shown import held, require_shown, shown_by

__all__ = [
    "TrainingRows",
    "data_of_role",
    "judge_over_long",
    "of_source",
    "refuse_template",
    "render_row",
    "render_rows",
]

_R = TypeVar("_R")

_AT_ONCE = 64
"""Rows per call of the tokenizer; more gain nothing."""
_DROP_SHARE = 0.05
"""Share of over-long rows that is dropped without being asked; above it the bound is wrong, not the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRows:
    """Rows ready for the model. Validation may be empty."""

    train: list[RenderedRow]
    validation: list[RenderedRow]


def data_of_role(spec: ResolvedSpec, role: str) -> list[ResolvedData]:
    """Return the files of a role, each proven to be the bytes that were resolved.

    Raises:
        TunefleetError: DATA_INVALID if a file changed since the job was submitted.
    """
    files = [data for data in spec.data if data.role == role]
    for data in files:
        if data.sha256 and file_digest(data.path) != data.sha256:
            raise TunefleetError(
                Reason.DATA_INVALID,
                f"'{data.path}' changed after the job was submitted.",
                hint="Submit the job again to use the file as it is now.",
                metadata={"path": data.path},
            )
    return files


def render_row(path: str, row: Row, renderer: Renderer) -> RenderedRow:
    """Render one row.

    Raises:
        TunefleetError: DATA_INVALID naming the line if the template does not take it.
    """
    try:
        return renderer.row(row.as_chat(), row.tools)
    except TemplateRefusedError as error:
        refuse_template(path, row, error)


def refuse_template(path: str, row: Row, error: TemplateRefusedError, *, field: str = "messages") -> NoReturn:
    """Raise DATA_INVALID for a row that the template does not take."""
    nine = " Some templates take ids of nine letters or digits only." if row.has_tools else ""
    raise TunefleetError(
        Reason.DATA_INVALID,
        f"{Path(path).name}:{row.line}: {field}: the chat template does not take them: {error}",
        hint=f"Correct the roles and their order on line {row.line} of {path}.{nine}",
        metadata={"path": path, "line": str(row.line), "field": field},
        violations=(FieldViolation(field=field, description=str(error)),),
    ) from error


def render_rows(path: str, rows: Iterable[Row], renderer: Renderer) -> Iterator[tuple[Row, RenderedRow]]:
    """Render rows, many at a time, in their order.

    Raises:
        TunefleetError: DATA_INVALID naming the first line that the template does not take, or
            of which it would leave something out.
    """
    source = iter(rows)
    shown: frozenset[str] | None = None
    while batch := list(islice(source, _AT_ONCE)):
        holds = [frozenset(word for word, _ in held(row)) for row in batch]
        if any(holds):
            shown = shown_by(renderer) if shown is None else shown
            for row in batch:
                require_shown(path, row, shown)
        try:
            rendered = renderer.rows([row.as_chat() for row in batch], [row.tools for row in batch])
        except TemplateRefusedError:
            rendered = [render_row(path, row, renderer) for row in batch]  # one of them says which line
        for row, one, words in zip(batch, rendered, holds, strict=True):
            yield row, replace(one, holds=words) if words else one


def judge_over_long(context: RunContext, data: ResolvedData, lines: list[int], rows: int) -> None:
    """Refuse rows that are too long, or tell that they are left out, as the job asks.

    Raises:
        TunefleetError: DATA_INVALID with the number of such rows and the line of the first.
    """
    train = context.order.resolved_spec.spec.train
    name = Path(data.path).name
    fact = f"{len(lines)} of {rows} rows of '{name}' are longer than {train.max_length} tokens"
    refuse = train.over_long == "error" or (not train.over_long and len(lines) > _DROP_SHARE * rows)
    if refuse or len(lines) == rows:
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"{fact}, first on line {lines[0]}.",
            hint="Raise train.max_length, shorten the rows, or set train.over_long to 'drop'.",
            metadata={"path": data.path, "line": str(lines[0]), "rows": str(len(lines))},
        )
    context.notice(
        f"{fact} and are left out, first on line {lines[0]}.",
        hint="Raise train.max_length to train on them.",
    )


def of_source(context: RunContext, data: ResolvedData, rows: list[_R]) -> list[_R]:
    """Return the rows that an epoch takes of a source, and tell how many if there are several sources."""
    spec = context.order.resolved_spec
    chosen = mixed(
        rows,
        seed=spec.spec.train.seed,
        weight=data.weight or 1.0,
        repeats=data.repeats or 1,
        cap=data.cap,
    )
    if sum(item.role == "train" for item in spec.data) > 1:
        name = Path(data.path).name
        context.notice(
            f"An epoch takes {len(chosen)} rows of '{name}', which has {len(rows)}.", severity="info"
        )
    return chosen
