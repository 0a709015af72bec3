"""Two answers in two columns, growing at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from tunefleet_cli.output.output import Output, printable
from tunefleet_core.errors import TunefleetError

__all__ = ["fits_side_by_side", "side_by_side"]

_LEAST_WIDTH = 100
_FRAME_SECONDS = 0.1


class _Answer:
    """What one stream has brought; filled by a thread of its own."""

    def __init__(self, stream: Iterator[str]) -> None:
        self.text = ""
        self.error: TunefleetError | None = None
        self.is_stopped = False
        self._stream = stream
        # A daemon: a stream that hangs in a read must not hold up the end of the process.
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for part in self._stream:
                self.text += part
                if self.is_stopped:
                    return
        except TunefleetError as error:
            self.error = error


def fits_side_by_side(output: Output) -> bool:
    """Return whether there is a person and room for two columns."""
    return output.is_human and output.width >= _LEAST_WIDTH


def side_by_side(output: Output, titles: Sequence[str], streams: Sequence[Iterator[str]]) -> list[str]:
    """Print the answers side by side as they grow and return them; Ctrl-C stops both.

    Raises:
        TunefleetError: What one of the streams raised, after the other came to its end.
    """
    answers = [_Answer(stream) for stream in streams]
    with Live(console=output.console, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while any(answer.thread.is_alive() for answer in answers):
                live.update(_columns(output, titles, answers), refresh=True)
                time.sleep(_FRAME_SECONDS)
        except KeyboardInterrupt:
            for answer in answers:
                answer.is_stopped = True
        live.vertical_overflow = "visible"
        live.update(_columns(output, titles, answers), refresh=True)
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    return [answer.text for answer in answers]


def _columns(output: Output, titles: Sequence[str], answers: Sequence[_Answer]) -> RichTable:
    table = RichTable.grid(padding=(0, 3, 0, 0))
    for _ in titles:
        table.add_column(width=output.width // len(titles) - 3, overflow="fold")
    table.add_row(*(Text(title, style="strong") for title in titles))
    table.add_row(*(Text(printable(answer.text)) for answer in answers))
    return table
