"""Where commands print: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import TextIO

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table as RichTable
from rich.text import Text

from tunefleet_cli.output.table import Table, human_table, plain_table
from tunefleet_cli.output.theme import THEME, state_symbol
from tunefleet_core.errors import TunefleetError
from tunefleet_core.spec.descriptors import descriptor_of, fields_of, is_repeated

__all__ = ["SCHEMA", "Mode", "Output", "hanging", "open_output", "printable"]

SCHEMA = "tunefleet/v1"
"""Version of the JSON documents; grows only when a reader could break."""


class Mode(Enum):
    """Who reads."""

    HUMAN = "human"
    PLAIN = "plain"
    JSON = "json"


class Output:
    """Prints for one reader.

    Args:
        mode: Who reads stdout.
        stdout: For data.
        stderr: For everything else.
        width: Columns; left out, those of the terminal.
        has_styled_messages: Whether stderr may have colour, if it is a terminal.
        is_quiet: Whether to leave out everything but data, failures and errors.
        now: The clock, for ages.
    """

    def __init__(
        self,
        *,
        mode: Mode,
        stdout: TextIO,
        stderr: TextIO,
        width: int | None = None,
        has_styled_messages: bool = True,
        is_quiet: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.mode = mode
        self.now = now
        self._is_quiet = is_quiet
        self.console = _console(stdout, width=width, is_styled=mode is Mode.HUMAN)
        self._messages = _console(stderr, width=width, is_styled=has_styled_messages)

    @property
    def is_human(self) -> bool:
        """Whether a person reads at a terminal."""
        return self.mode is Mode.HUMAN

    @property
    def is_json(self) -> bool:
        """Whether a program reads."""
        return self.mode is Mode.JSON

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self.console.width

    def message(self, message: Message, **more: str) -> None:
        """Print a proto message as one line of JSON, its full name as its kind.

        A list of the message is there when it is empty too, so that a program can walk it.

        Args:
            message: What the fleet said.
            more: What was made of it here, as further fields.
        """
        fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
        if message.DESCRIPTOR.name.startswith("List"):
            for field in fields_of(descriptor_of(message)):
                if is_repeated(field):
                    fields.setdefault(field.name, [])
        self.document(message.DESCRIPTOR.full_name, {**fields, **more})

    def document(self, kind: str, data: object) -> None:
        """Print one JSON document."""
        self.line(json.dumps({"schema": SCHEMA, "kind": kind, "data": data}, ensure_ascii=False))

    def line(self, text: str = "") -> None:
        """Print a line of data as it is."""
        self.console.file.write(text + "\n")
        self.console.file.flush()

    def fragment(self, text: str) -> None:
        """Print a piece of a line at once, as an answer grows."""
        self.console.file.write(printable(text) if self.is_human else text)
        self.console.file.flush()

    def show(self, *items: RenderableType) -> None:
        """Print renderables, for people."""
        for item in items:
            self.console.print(item)

    def table(self, table: Table) -> None:
        """Print a table, or what it says when it is empty."""
        if not table.rows and table.empty:
            self.note(table.empty)
        elif self.is_human:
            self.show(human_table(table, width=self.width))
        else:
            for line in plain_table(table):
                self.line(line)

    @contextmanager
    def transfer(self, text: str, *, then: str = "") -> Generator[Callable[[int, int], None]]:
        """Show how far a transfer is while the block runs; told bytes so far and in all.

        Args:
            text: What is sent or fetched.
            then: What goes on once all bytes are there; empty: nothing that takes time.
        """
        if not self.is_human or self._is_quiet:
            yield lambda done, total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self._messages, transient=True) as progress:
            task = progress.add_task(text, total=None)

            def show(done: int, total: int) -> None:
                said = then if then and done >= total else text
                progress.update(task, completed=done, total=total, description=said)

            yield show

    def gap(self) -> None:
        """Leave a line free, for people."""
        if self.is_human:
            self.show(Text())

    def heading(self, text: str) -> None:
        """Print the title of a section."""
        if self.is_human:
            self.show(Text(), Text(text, style="strong"))
        else:
            self.line(f"\n{text}")

    def facts(self, facts: Sequence[tuple[str, Text | str]]) -> None:
        """Print names and values; empty values are left out."""
        shown = [(name, value) for name, value in facts if str(value)]
        longest = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            if self.is_human:
                text = value if isinstance(value, Text) else Text(value)
                label = Text(f"{name:<{longest}}  ", style="faint")
                self.show(hanging(label, text))
            else:
                self.line(f"{name:<{longest}}  {value}")

    def result(self, message: Message, *, name: str, text: str, next_step: str) -> None:
        """Say what a change made: the resource for programs, its name for pipes, a line for people."""
        if self.is_json:
            self.message(message)
            return
        if not self.is_human:
            self.line(name)
        self.done(text, next_step=next_step)

    def done(self, text: str, *, next_step: str = "") -> None:
        """Say how a change ended and what to do next."""
        if self._is_quiet:
            return
        self._messages.print(hanging(state_symbol("OK"), Text(text)))
        self._next(next_step)

    def failed(self, text: str, *, next_step: str = "") -> None:
        """Say that something did not end well, and what to do next."""
        self._messages.print(hanging(state_symbol("FAILED"), Text(text)))
        self._next(next_step)

    def warning(self, text: str, *, hint: str = "") -> None:
        """Say something that a person should know."""
        self._messages.print(hanging(state_symbol("WARNING"), Text(text)))
        self._next(hint)

    def note(self, text: str) -> None:
        """Say something in passing."""
        if self._is_quiet:
            return
        self._messages.print(Text(text, style="faint"))

    def error(self, error: TunefleetError) -> None:
        """Show an error: what happened, why, and the next step."""
        if self.is_json:
            document = {"schema": SCHEMA, "kind": "error", "data": _error_fields(error)}
            self._messages.file.write(json.dumps(document, ensure_ascii=False) + "\n")
            return
        message = Text.assemble(error.message, (f"  ({error.reason.value})", "faint"))
        self._messages.print(hanging(state_symbol("FAILED"), message))
        for violation in error.violations:
            # The message of a single wrong field already says all of it.
            if violation.description not in error.message:
                line = Text.assemble((violation.field, "accent"), f": {violation.description}")
                self._messages.print(Padding(line, (0, 0, 0, 4)))
        self._next(error.hint)

    def _next(self, step: str) -> None:
        if step:
            self._messages.print(hanging(Text("  Next step:  ", style="faint"), Text(step, style="accent")))


_HARMLESS = "\n\t\u200c\u200d"
"""Joiners too: Persian, Hindi and many emoji are written with them."""


def printable(text: str) -> str:
    """Return text of a model or a run without what would command a terminal (escape codes)."""
    return "".join(char if char.isprintable() or char in _HARMLESS else "�" for char in text)


def open_output(*, is_json: bool, is_plain: bool, is_quiet: bool = False) -> Output:
    """Return the output for this process: human on a terminal, else plain."""
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    mode = Mode.JSON if is_json else Mode.HUMAN if is_terminal and not is_plain else Mode.PLAIN
    return Output(
        mode=mode,
        stdout=sys.stdout,
        stderr=sys.stderr,
        has_styled_messages=not (is_plain or is_json),
        is_quiet=is_quiet,
    )


def _console(file: TextIO, *, width: int | None, is_styled: bool) -> Console:
    # markup and emoji off: text of users and models is never to be interpreted.
    has_terminal = file.isatty() and is_styled
    return Console(
        file=file,
        theme=THEME,
        width=width or (None if has_terminal else 1000),
        force_terminal=has_terminal,
        color_system="auto" if has_terminal else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def hanging(label: Text, text: Text) -> RenderableType:
    """Return a label with text beside it that wraps under itself."""
    grid = RichTable.grid(padding=0)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(label, text)
    return grid


def _error_fields(error: TunefleetError) -> Mapping[str, object]:
    return {
        "reason": error.reason.value,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "metadata": error.metadata,
        "violations": [
            {"field": violation.field, "description": violation.description} for violation in error.violations
        ],
    }
