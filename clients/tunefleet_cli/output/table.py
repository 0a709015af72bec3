"""Tables that fit: a narrow terminal loses columns, not meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

__all__ = ["Column", "Table", "human_table", "plain_table"]

_GAP = 2
"""Columns between two cells; rich draws one of them as an invisible divider."""
_ENOUGH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column.

    Attributes:
        title: Its heading.
        style: Style of its cells.
        align: Where its cells stand.
        rank: Columns with the highest rank leave first where there is no room; 0 stays.
        wraps: Whether long cells go over several lines instead of being cut.
    """

    title: str
    style: str = ""
    align: Literal["left", "right"] = "left"
    rank: int = 0
    wraps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns, rows of text, and what to say if there are none."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Text | str]]
    empty: str = ""


def human_table(table: Table, *, width: int, indent: int = 0) -> RichTable:
    """Return a table for a terminal of this width."""
    kept = _fitting(table, width - indent)
    rich_table = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),
        header_style="faint",
        border_style="faint",
    )
    giving = _giving(table, kept)
    others = sum(_natural(table, index) + _GAP for index in kept if index != giving)
    room = max(8, min(_natural(table, giving), width - indent - others))
    for index in kept:
        column = table.columns[index]
        rich_table.add_column(
            column.title,
            style=column.style,
            justify=column.align,
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
            width=room if index == giving else _natural(table, index),
        )
    for row in table.rows:
        rich_table.add_row(*(_text(row[index]) for index in kept))
    return rich_table


def plain_table(table: Table) -> list[str]:
    """Return every column, aligned, without colour or cutting."""
    titles = [column.title for column in table.columns]
    cells = [titles, *([_text(cell).plain.replace("\n", " ") for cell in row] for row in table.rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(titles))]
    lines: list[str] = []
    for row in cells:
        padded = (
            cell.rjust(width) if column.align == "right" else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        )
        lines.append((" " * _GAP).join(padded).rstrip())
    return lines


def _giving(table: Table, kept: Sequence[int]) -> int:
    """Return the column that gives way: the last that may wrap, else the first."""
    return next((index for index in reversed(kept) if table.columns[index].wraps), kept[0])


def _fitting(table: Table, width: int) -> list[int]:
    kept = list(range(len(table.columns)))
    while len(kept) > 1:
        giving = _giving(table, kept)
        # The one that gives way asks for no more than it needs to be told apart.
        asked = (
            min(_natural(table, index), _ENOUGH) if index == giving else _natural(table, index)
            for index in kept
        )
        leaving = max(kept, key=lambda index: (table.columns[index].rank, index))
        if sum(asked) + _GAP * (len(kept) - 1) <= width or table.columns[leaving].rank == 0:
            break
        kept.remove(leaving)
    return kept


def _natural(table: Table, index: int) -> int:
    cells = (_text(row[index]).cell_len for row in table.rows)
    return max([len(table.columns[index].title), *cells])


def _text(cell: Text | str) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)
