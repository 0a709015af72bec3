"""Which rows of which file a step was made of: how many of each source, and by name when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tunefleet_core.rendering import RenderedRow

__all__ = ["RowPlaces"]


class RowPlaces:
    """Remembers the batches of a step and finds their rows by their tokens.

    The library's datasets and collators carry tokens alone; what costs time is done for a step
    that stood out, not for each.
    """

    def __init__(self, rows: Sequence[RenderedRow], *, conversations: int = 1) -> None:
        """Take the training rows.

        Args:
            rows: Every conversation of them, as batches hold it.
            conversations: How many of these a row has: two for pairs.
        """
        self._rows = rows
        self._conversations = conversations
        self._batches: list[Mapping[str, Any]] = []
        paths = list(dict.fromkeys(row.path for row in rows if row.line))
        self.sources = _names(paths)
        # Of many rows only a number each is kept; equal rows of two sources count for the first.
        self._source_of: dict[int, int] = {}
        if len(paths) > 1:
            numbers = {path: number for number, path in enumerate(paths)}
            for row in rows:
                if row.line:
                    self._source_of.setdefault(hash(tuple(row.input_ids)), numbers[row.path])

    def see(self, inputs: Mapping[str, Any]) -> None:
        """Remember a batch of the step; nothing is copied."""
        names = ("input_ids", "attention_mask", "position_ids")
        self._batches.append({name: inputs[name] for name in names if inputs.get(name) is not None})

    def forget(self) -> None:
        """Begin a new step."""
        self._batches.clear()

    def counts(self) -> list[int]:
        """Return the rows of the step from each of `sources`; empty: there is one, or none is known."""
        if not self._source_of:
            return []
        found = [0] * len(self.sources)
        for batch in self._batches:
            for ids in _rows_of(batch):
                source = self._source_of.get(hash(ids))
                if source is not None:
                    found[source] += 1
        return [count // self._conversations for count in found]

    def places(self) -> list[tuple[str, int]]:
        """Return file and line of every row of the step that can be found, in its order, each once."""
        known = {tuple(row.input_ids): (row.path, row.line) for row in self._rows if row.line}
        found = (known.get(ids) for batch in self._batches for ids in _rows_of(batch))
        return list(dict.fromkeys(place for place in found if place is not None))


def _names(paths: Sequence[str]) -> list[str]:
    """Return a short name for each file: its own, with a number where two are called alike."""
    stems = [Path(path).stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem}-{stems[: number + 1].count(stem)}"
        for number, stem in enumerate(stems)
    ]


def _rows_of(batch: Mapping[str, Any]) -> Iterator[tuple[int, ...]]:
    """Yield the tokens of each row of a batch, without padding; packed rows one by one."""
    ids = batch.get("input_ids")
    if ids is None:
        return
    mask = batch.get("attention_mask")
    positions = batch.get("position_ids")
    for at in range(ids.shape[0]):
        kept = torch.ones_like(ids[at], dtype=torch.bool) if mask is None else mask[at].bool()
        tokens = ids[at][kept].tolist()
        if positions is None:
            yield tuple(tokens)
            continue
        begins = (positions[at][kept] == 0).nonzero().flatten().tolist()
        for begin, end in zip(begins, [*begins[1:], len(tokens)], strict=True):
            yield tuple(tokens[begin:end])
