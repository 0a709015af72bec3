"""The rows of a run of any method but SFT: read, rendered, bounded in length, weighted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunefleet.job.v1.resolved_pb2 import ResolvedData
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import (
    Answer,
    AnsweredRow,
    RenderedRow,
    Renderer,
    TrainingRows,
    data_of_role,
    judge_over_long,
    of_source,
    rows_of_file,
)
from tunefleet_trl.life import RowPlaces

__all__ = ["AnsweredRows", "answered_training_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRows:
    """Rows ready for a trainer. Validation may be empty."""

    train: list[AnsweredRow]
    validation: list[AnsweredRow]

    def places(self, tokens: Callable[[Answer], list[int]] | None = None) -> RowPlaces:
        """Return where the answers of batches are from; those that the model draws itself are from nowhere.

        Args:
            tokens: What batches hold of an answer; None: all of it.
        """
        placed: list[RenderedRow] = []
        for row in self.train:
            for answer in row.answers:
                if answer.fields is None:
                    ids = answer.rendered.input_ids if tokens is None else tokens(answer)
                    mask = answer.rendered.mask[: len(ids)]
                    placed.append(RenderedRow(input_ids=ids, mask=mask, path=row.path, line=row.line))
        return RowPlaces(placed, conversations=max((len(row.answers) for row in self.train), default=1))

    def references(self) -> TrainingRows:
        """Return what the result is held to when it is served: the answers to be preferred."""
        return TrainingRows(train=_wanted(self.train), validation=_wanted(self.validation))


def answered_training_rows(context: RunContext, renderer: Renderer, method: str) -> AnsweredRows:
    """Read and render the rows of a training job.

    Raises:
        TunefleetError: DATA_INVALID naming file, line and field; NO_TRAINED_TOKEN if
            nothing would be learned.
    """
    spec = context.order.resolved_spec
    train: list[AnsweredRow] = []
    for data in data_of_role(spec, "train"):
        rows = _usable(context, data, renderer, method)
        train.extend(of_source(context, data, rows))
    if not train:
        raise TunefleetError(
            Reason.NO_TRAINED_TOKEN,
            "No training row has answers that carry loss and differ.",
            hint="Check that the answers are not empty and not the same: tunefleet plan FILE",
        )
    validation = [
        row for data in data_of_role(spec, "validation") for row in _usable(context, data, renderer, method)
    ]
    return AnsweredRows(train=train, validation=validation)


def _usable(context: RunContext, data: ResolvedData, renderer: Renderer, method: str) -> list[AnsweredRow]:
    train = context.order.resolved_spec.spec.train
    read = rows_of_file(method, data.path, renderer, sha256=data.sha256)
    rows = [replace(row, path=data.path) for row in read]
    over_long = [row.line for row in rows if train.max_length and row.length > train.max_length]
    if over_long:
        judge_over_long(context, data, over_long, len(rows))
    dropped = set(over_long)
    kept = [row for row in rows if row.line not in dropped]
    taught = [row for row in kept if row.teaches]
    if len(taught) < len(kept):
        context.notice(
            f"{len(kept) - len(taught)} of {len(kept)} rows of '{Path(data.path).name}' teach nothing and "
            "are left out: an answer without loss, or two answers that are the same.",
            hint="See the audit of the rows: tunefleet plan FILE",
        )
    return taught


def _wanted(rows: Sequence[AnsweredRow]) -> list[RenderedRow]:
    """Return the first answer of each row: the chosen one of a pair; of labelled ones all, good or bad."""
    return [
        answer.rendered if answer.fields is None else _asked(answer.rendered)
        for answer in (row.answers[0] for row in rows)
    ]


def _asked(prompt: RenderedRow) -> RenderedRow:
    """Return a prompt as the start of a row whose answer begins after it; which one is not known."""
    return RenderedRow(input_ids=[*prompt.input_ids, 0], mask=[*prompt.mask, 1], holds=prompt.holds)
