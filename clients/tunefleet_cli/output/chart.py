"""Small charts in text: a sparkline, a braille curve, bars, an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["bar", "curve", "interval", "sparkline"]

_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# Bits of a braille cell by column and row from the top (Unicode block U+2800).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def sparkline(values: Sequence[float], *, width: int, from_zero: bool = False) -> str:
    """Return values as block characters, averaged into at most `width` of them.

    Args:
        values: In order; those that are no numbers are left out.
        width: Most characters.
        from_zero: Whether the lowest block means zero instead of the lowest value,
            for values whose noise is not to look like change.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width <= 0:
        return ""
    buckets = _buckets(finite, width)
    low, high = 0.0 if from_zero else min(buckets), max(buckets)
    spread = (high - low) or 1.0
    return "".join(_LEVELS[min(7, int((value - low) / spread * 8))] for value in buckets)


def curve(points: Sequence[tuple[float, float]], *, width: int, height: int, x_end: float) -> list[str]:
    """Return a line through points, drawn with braille dots, top row first.

    Args:
        points: (x, y), x rising from 0.
        width: Columns; each holds two dots.
        height: Rows; each holds four dots.
        x_end: The x of the right edge.
    """
    cells = [[0] * width for _ in range(height)]
    columns = _column_means(points, dots=width * 2, x_end=x_end)
    if columns:
        values = [value for _, value in columns]
        low, spread = min(values), (max(values) - min(values)) or 1.0
        rows = height * 4 - 1
        heights = [(x, round((high - low) / spread * rows)) for x, high in columns]
        for (x0, y0), (x1, y1) in zip(heights, heights[1:] or heights, strict=False):
            for x, y in _line(x0, y0, x1, y1):
                cells[(rows - y) // 4][x // 2] |= _DOTS[x % 2][(rows - y) % 4]
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in cells]


def bar(share: float, *, width: int) -> str:
    """Return a solid bar with a resolution of an eighth of a column."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def interval(low: float, value: float, high: float, *, width: int) -> str:
    """Return an interval of the range 0 to 1, such as `··├──●─┤···`."""
    last = width - 1
    first, middle, end = (round(max(0.0, min(1.0, item)) * last) for item in (low, value, high))
    cells = ["·"] * width
    for position in range(first, end + 1):
        cells[position] = "─"
    cells[first], cells[end] = "├", "┤"
    cells[middle] = "●"
    return "".join(cells)


def _buckets(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    return [math.fsum(values[begin:end]) / (end - begin) for begin, end in pairwise(edges)]


def _column_means(
    points: Sequence[tuple[float, float]], *, dots: int, x_end: float
) -> list[tuple[int, float]]:
    columns: dict[int, list[float]] = {}
    for x, y in points:
        if math.isfinite(y):
            column = min(dots - 1, int(x / x_end * dots)) if x_end > 0 else 0
            columns.setdefault(max(0, column), []).append(y)
    return [(x, math.fsum(ys) / len(ys)) for x, ys in sorted(columns.items())]


def _line(x0: int, y0: int, x1: int, y1: int) -> list[tuple[int, int]]:
    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [
        (round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps))
        for step in range(steps + 1)
    ]
