"""One shape for every list: the fields of a noun, and how each is read from an item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from google.protobuf.message import Message
from rich.text import Text

from tunefleet_cli.output.output import Output
from tunefleet_cli.output.table import Column, Table

__all__ = ["Field", "Listing"]

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field(Generic[_Item]):
    """A column of a list, and what stands in it.

    Attributes:
        title: Its heading.
        read: From the output (for its clock and its reader) and the item to the cell.
        style: Style of its cells.
        align: Where its cells stand.
        rank: Columns with the highest rank leave first where there is no room; 0 stays.
        wraps: Whether long cells go over several lines instead of being cut.
    """

    title: str
    read: Callable[[Output, _Item], Text | str]
    style: str = ""
    align: Literal["left", "right"] = "left"
    rank: int = 0
    wraps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[_Item]):
    """How the items of a noun are listed.

    Attributes:
        message: From the items to the message that a program gets.
        fields: The columns.
        empty: What to say if there are none: the fact and the next command.
        after: What to say below the table, on stderr.
    """

    message: Callable[[Sequence[_Item]], Message]
    fields: Sequence[Field[_Item]]
    empty: str
    after: Callable[[Output, Sequence[_Item]], None] | None = None

    def show(self, output: Output, items: Sequence[_Item]) -> None:
        """Print the items: a table for people and pipes, one document for programs."""
        if output.is_json:
            output.message(self.message(items))
            return
        columns = [
            Column(
                title=field.title,
                style=field.style,
                align=field.align,
                rank=field.rank,
                wraps=field.wraps,
            )
            for field in self.fields
        ]
        rows = [[field.read(output, item) for field in self.fields] for item in items]
        output.table(Table(columns=columns, rows=rows, empty=self.empty))
        if self.after is not None:
            self.after(output, items)
