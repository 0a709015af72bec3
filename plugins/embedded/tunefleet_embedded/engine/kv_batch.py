"""Keys and values of all running rows in one right-aligned buffer per layer.

`DynamicCache` copies the whole history on every token. Here each layer owns a buffer with room to spare: a
step writes one column, a joining row is written into a free row, a leaving row is overwritten by the last
one. Rows of different length end at the same column; what lies left of a row's first token is masked.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer

_COLUMN_STEP = 64
_KEEP_COLUMNS = 2048


class _BufferLayer(DynamicLayer):
    """One layer's view into the batch; `update` appends a column to the rows that run."""

    def __init__(self, batch: KvBatch) -> None:
        super().__init__()
        self._batch = batch
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, start, end = self._batch.window
        self.keys[:rows, :, end : end + 1] = key_states
        self.values[:rows, :, end : end + 1] = value_states
        return self.keys[:rows, :, start : end + 1], self.values[:rows, :, start : end + 1]

    def get_seq_length(self) -> int:
        _, start, end = self._batch.window
        return end - start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


class KvBatch:
    """The cache of the running batch. `cache` goes to the model; `join`, `advance` and `leave` move rows."""

    def __init__(self, *, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._lengths: list[int] = []
        self._end = 0
        self._columns = 0
        self._capacity = 0
        self.cache = Cache(layers=[])
        self._additive_mask = torch.empty(0)
        self._padding_mask = torch.empty(0)
        self._positions = torch.zeros((0, 1), dtype=torch.long, device=device)

    @property
    def rows(self) -> int:
        return len(self._lengths)

    @property
    def window(self) -> tuple[int, int, int]:
        """(rows, first column in use, column after the last one in use)."""
        return len(self._lengths), self._start, self._end

    @property
    def _start(self) -> int:
        return self._end - max(self._lengths, default=0)

    @property
    def positions(self) -> torch.Tensor:
        """Position ids of the tokens of the coming step: [rows, 1]."""
        return self._positions[: len(self._lengths)]

    def mask(self, *, additive: bool) -> torch.Tensor | None:
        """The mask of the coming step, None when no row is padded.

        Additive: [rows, 1, 1, columns], 0 or the lowest number, taken by SDPA as it is. Otherwise [rows,
        columns] of 0 and 1, from which the model builds its own masks (needed for sliding windows).
        """
        rows, start, end = self.window
        if min(self._lengths) == max(self._lengths):
            return None
        if additive:
            return self._additive_mask[:rows, :, :, start : end + 1]
        return self._padding_mask[:rows, start : end + 1]

    def prepare_step(self) -> None:
        """Makes room for one more column. Call before the forward."""
        if self._end == self._columns:
            self._make_room(width=0, capacity=self._capacity)

    def advance(self) -> None:
        """Counts the column that the forward has written."""
        self._positions[: self.rows] += 1
        self._lengths = [length + 1 for length in self._lengths]
        self._end += 1

    def join(self, cache: Cache, lengths: list[int]) -> None:
        """Adds prefilled rows. `cache` holds `lengths[i]` real columns of row i, at its right end."""
        width = max(lengths)
        first, rows = self.rows, self.rows + len(lengths)
        if not self.cache.layers:
            self._allocate_layers(cache)
        if not first and width <= self._columns:
            self._end = width
        if width > self._end or rows > self._capacity:
            self._make_room(width=width, capacity=max(self._capacity, _next_power_of_two(rows)))
        end = self._end
        for layer, new in zip(self.cache.layers, cache.layers, strict=True):
            layer.keys[first:rows, :, end - width : end] = new.keys[:, :, -width:]
            layer.values[first:rows, :, end - width : end] = new.values[:, :, -width:]
        lowest = torch.finfo(self._dtype).min
        for row, length in enumerate(lengths, start=first):
            self._padding_mask[row, : end - length] = 0
            self._padding_mask[row, end - length :] = 1
            self._additive_mask[row, :, :, : end - length] = lowest
            self._additive_mask[row, :, :, end - length :] = 0
        self._positions[first:rows, 0] = torch.tensor(lengths, device=self._device)
        self._lengths += lengths

    def leave(self, row: int) -> None:
        """Drops a row; the last row takes its place. Padding that all others share goes with it."""
        last = self.rows - 1
        if row != last:
            start, end = self._start, self._end
            for layer in self.cache.layers:
                layer.keys[row, :, start:end] = layer.keys[last, :, start:end]
                layer.values[row, :, start:end] = layer.values[last, :, start:end]
            self._padding_mask[row] = self._padding_mask[last]
            self._additive_mask[row] = self._additive_mask[last]
            self._positions[row] = self._positions[last]
            self._lengths[row] = self._lengths[last]
        self._lengths.pop()
        if not self._lengths:
            self._end = 0
            if self._columns > _KEEP_COLUMNS:
                self.clear()

    def clear(self) -> None:
        """Drops all rows and the memory behind them."""
        self._lengths = []
        self._end = self._columns = self._capacity = 0
        self.cache = Cache(layers=[])

    def _allocate_layers(self, example: Cache) -> None:
        for layer in example.layers:
            own = _BufferLayer(self)
            own.keys = layer.keys.new_zeros((0, layer.keys.shape[1], 0, layer.keys.shape[3]))
            own.values = layer.values.new_zeros((0, layer.values.shape[1], 0, layer.values.shape[3]))
            self.cache.layers.append(own)

    def _make_room(self, *, width: int, capacity: int) -> None:
        """Moves the rows into larger buffers without the padding they share; the end is `width` or later."""
        rows, old_start, old_end = self.window
        used = max(old_end - old_start, width) if rows else width
        columns = _round_up(used + max(_COLUMN_STEP, used // 2))
        target = used - (old_end - old_start)
        for layer in self.cache.layers:
            layer.keys = _moved(layer.keys, capacity, columns, rows, old_start, old_end, target)
            layer.values = _moved(layer.values, capacity, columns, rows, old_start, old_end, target)
        lowest = torch.finfo(self._dtype).min
        self._padding_mask = torch.ones((capacity, columns), dtype=torch.long, device=self._device)
        self._additive_mask = torch.zeros((capacity, 1, 1, columns), dtype=self._dtype, device=self._device)
        for row, length in enumerate(self._lengths):
            self._padding_mask[row, : used - length] = 0
            self._additive_mask[row, :, :, : used - length] = lowest
        positions = torch.zeros((capacity, 1), dtype=torch.long, device=self._device)
        positions[:rows] = self._positions[:rows]
        self._positions = positions
        self._end, self._columns, self._capacity = used, columns, capacity


def _moved(
    old: torch.Tensor, capacity: int, columns: int, rows: int, start: int, end: int, target: int
) -> torch.Tensor:
    # Zeros and not uninitialised memory: a masked NaN is still NaN after the multiplication with its zero
    # weight.
    new = old.new_zeros((capacity, old.shape[1], columns, old.shape[3]))
    if rows:
        new[:rows, :, target : target + end - start] = old[:rows, :, start:end]
    return new


def _round_up(columns: int) -> int:
    return -(-columns // _COLUMN_STEP) * _COLUMN_STEP


def _next_power_of_two(rows: int) -> int:
    return 1 << (rows - 1).bit_length()
