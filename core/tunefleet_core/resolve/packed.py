"""Packing in a plan: how many sequences the rows fill, and whom it cannot be used on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

from tunefleet.dataset.v1.audit_pb2 import MaskAudit
from tunefleet.job.v1.event_pb2 import Notice
from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.data import packed_sequences
from tunefleet_core.errors import TunefleetError
from tunefleet_core.resolve.notice import info
from tunefleet_core.resolve.recipe import config_of

__all__ = ["count_sequences", "packing_notices", "require_packable"]

_FIELD = "train.method.sft.packing"
_ISOLATING = ("full_attention", "sliding_attention", "chunked_attention")
"""Layers that positions can keep from seeing the row before; a recurrent state runs on through it."""


def require_packable(train: TrainSpec, facts: BaseFacts) -> None:
    """Refuse to pack rows for a base whose layers would carry one row over into the next.

    Raises:
        TunefleetError: FIELD_INVALID naming the kind of layer.
    """
    if not train.method.sft.packing:
        return
    types = cast("list[object]", config_of(facts).get("layer_types") or [])
    others = sorted({str(item) for item in types} - set(_ISOLATING))
    if others:
        raise TunefleetError.field(
            _FIELD,
            f"cannot be used on '{facts.model or facts.path}': its layers of the kind {', '.join(others)} "
            "carry one row over into the next",
            hint="Leave packing out, or name a base with attention in every layer.",
        )


def count_sequences(train: TrainSpec, mask: MaskAudit, *, rows: int) -> int:
    """Return the sequences that rows fill in an epoch; 0 without packing.

    Args:
        train: A spec with `max_length`.
        mask: What was found of its rows; without their lengths the number is rough.
        rows: Rows that are not too long.
    """
    if not train.method.sft.packing:
        return 0
    if mask.lengths:
        return packed_sequences({item.tokens: item.rows for item in mask.lengths}, train.max_length)
    return max(1, min(rows, math.ceil(mask.tokens / train.max_length)))


def packing_notices(train: TrainSpec, *, rows: int, sequences: int) -> Iterator[Notice]:
    """Yield what packing makes of the rows."""
    if sequences:
        each = rows / sequences
        yield info(
            f"{rows:,} rows are packed into {sequences:,} sequences of up to {train.max_length:,} tokens, "
            f"{each:.1f} rows each: a step of {train.optim.batch_size} sequences sees about "
            f"{train.optim.batch_size * each:.0f} rows.",
            hint="Lower train.optim.batch_size for as many steps as without packing.",
        )
