"""The rows of supervised training: read, check, render, drop what must not train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunefleet.job.v1.resolved_pb2 import ResolvedData
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering.once import rows_of_file
from tunefleet_core.rendering.renderer import RenderedRow, Renderer
from tunefleet_core.rendering.rows import TrainingRows, data_of_role, judge_over_long, of_source

__all__ = ["general_rows", "training_rows"]

_MOST_GENERAL = 200
"""General rows that are scored: a standard error of a point or two, and seconds, not minutes."""


def training_rows(context: RunContext, renderer: Renderer) -> TrainingRows:
    """Read and render the rows of a training job.

    Raises:
        TunefleetError: DATA_INVALID naming file, line and field; NO_TRAINED_TOKEN if
            nothing would be learned.
    """
    spec = context.order.resolved_spec
    train: list[RenderedRow] = []
    for data in data_of_role(spec, "train"):
        rows = _usable(context, data, renderer)
        train.extend(of_source(context, data, rows))
    if not train:
        raise TunefleetError(
            Reason.NO_TRAINED_TOKEN,
            "No token of the training rows carries loss.",
            hint="Check that rows have assistant turns and that the template marks them: tunefleet plan FILE",
        )
    validation = [
        row for data in data_of_role(spec, "validation") for row in _usable(context, data, renderer)
    ]
    return TrainingRows(train=train, validation=validation)


def general_rows(context: RunContext, renderer: Renderer) -> list[RenderedRow]:
    """Return the rows that a run is scored on beside its own, few enough to be scored often.

    Raises:
        TunefleetError: DATA_INVALID naming file, line and field.
    """
    files = data_of_role(context.order.resolved_spec, "general")
    return [row for data in files for row in _usable(context, data, renderer)][:_MOST_GENERAL]


def _usable(context: RunContext, data: ResolvedData, renderer: Renderer) -> list[RenderedRow]:
    train = context.order.resolved_spec.spec.train
    rows = rows_of_file("sft", data.path, renderer, sha256=data.sha256)
    rendered = [(row.line, row.answers[0].rendered) for row in rows]
    over_long = [line for line, row in rendered if train.max_length and len(row.input_ids) > train.max_length]
    if over_long:
        judge_over_long(context, data, over_long, len(rendered))
    dropped = set(over_long)
    kept = [replace(row, path=data.path, line=line) for line, row in rendered if line not in dropped]
    trained = [row for row in kept if _has_loss(row)]
    if len(trained) < len(kept):
        context.notice(
            f"{len(kept) - len(trained)} of {len(kept)} rows of '{Path(data.path).name}' have no token that "
            "carries loss and are left out.",
            hint="Give each row an assistant turn, or a text of several tokens.",
        )
    return trained


def _has_loss(row: RenderedRow) -> bool:
    # The first token is never predicted, so loss on it alone trains nothing.
    return any(row.mask[1:])
