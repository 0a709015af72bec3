"""The live view of a run: one screen, redrawn in place.

The screen is cut from the middle: what a run is, how far, and what is wrong stay
at every size; the chart, samples and the log take the rows that are left.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_cli.output.chart import curve
from tunefleet_cli.output.figures import cells, figures
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.quantities import duration_text, number_text, percent_text
from tunefleet_cli.output.remarks import log_rows, one_line, remarks, sample_rows
from tunefleet_cli.output.theme import state_text
from tunefleet_cli.run_progress import RunProgress, state_name
from tunefleet_client import TERMINAL_STATES, short_name

__all__ = ["RunScreen", "full_screen", "live_screen"]

_MOST_WIDTH = 100
_AXIS = 9
_LEAST_CHART = 6
"""Rows of the smallest chart that tells something: title, three of curve, axis, a free one."""
_MOST_CHART = 9
_DETACH = "Ctrl-C detaches and stops nothing"
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PHASES = (
    (RunPhase.RUN_PHASE_STARTING, "start"),
    (RunPhase.RUN_PHASE_DOWNLOADING, "download"),
    (RunPhase.RUN_PHASE_LOADING, "load"),
    (RunPhase.RUN_PHASE_PREFLIGHT, "preflight"),
    (RunPhase.RUN_PHASE_WORKING, "work"),
    (RunPhase.RUN_PHASE_SAVING, "save"),
    (RunPhase.RUN_PHASE_UPLOADING, "upload"),
)
_NOT_ALWAYS = (RunPhase.RUN_PHASE_DOWNLOADING, RunPhase.RUN_PHASE_PREFLIGHT)
"""Phases that many runs do not have: shown once they were entered."""


class RunScreen:
    """Draws a RunProgress; the same object is drawn again and again.

    Args:
        progress: What to draw; changes under the screen's feet are fine between frames.
    """

    def __init__(self, progress: RunProgress) -> None:
        self._progress = progress
        self.frame = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, _MOST_WIDTH) - 2
        height = console.size.height if console.is_terminal else 24
        yield Padding(Group(*self._parts(width, height)), (0, 0, 0, 1))

    def _parts(self, width: int, height: int) -> list[RenderableType]:
        progress = self._progress
        columns = 3 if width >= 76 else 2
        head = [*self._head(width), self._bar(width)]
        foot = self._foot(width)
        # Two rows stay free: a terminal scrolls when its last one is written.
        left = height - len(head) - -(-len(cells(progress)) // columns) - len(foot) - 4
        said = remarks(progress, width=width)[: max(1, left // 2)]
        left -= len(said) + bool(said)
        # Samples and the log get some rows too, once the chart has enough.
        chart_rows = min(_MOST_CHART, left, max(_LEAST_CHART, left - 6))
        chart = self._chart(width, chart_rows) if progress.losses else []
        left -= len(chart)
        numbers = figures(progress, width=width, columns=columns, has_chart=bool(chart))
        samples = sample_rows(progress, width=width, rows=min(4, left - 1))
        left -= len(samples) + bool(samples)
        lines = log_rows(progress, width=width, rows=min(6, left - 1))
        parts: list[RenderableType] = [*head, Text(), *chart, numbers]
        for block in (said, samples, lines, foot):
            parts += [Text(), *block] if block else []
        return parts

    def _foot(self, width: int) -> list[Text]:
        if self._progress.state in TERMINAL_STATES:
            return []
        name = short_name(self._progress.job.name)
        whole = f"{_DETACH} · tunefleet jobs watch {name}"
        return [Text(whole if len(whole) <= width else _DETACH, style="faint")]

    def _head(self, width: int) -> list[RenderableType]:
        progress = self._progress
        name = Text(short_name(progress.job.name) or "…", style="strong")
        right = Text("  ").join(
            part for part in (self._place(), state_text(state_name(progress.state))) if part
        )
        head = RichTable.grid(expand=False)
        head.add_column(width=max(8, width - right.cell_len - 2), no_wrap=True, overflow="ellipsis")
        head.add_column(width=right.cell_len + 2, justify="right", no_wrap=True)
        head.add_row(name, right)
        return [head, self._steps_of_work(width), Text()]

    def _place(self) -> Text:
        progress = self._progress
        most = progress.job.spec.max_attempts or 3
        attempt = f"attempt {progress.attempt}/{most}" if progress.attempt > 1 else ""
        parts = [part for part in (short_name(progress.service), attempt) if part]
        return Text(" · ".join(parts), style="faint")

    def _steps_of_work(self, width: int) -> Text:
        """Return the phases in order; where there is no room, those behind us leave first."""
        progress = self._progress
        shown = [item for item in _PHASES if item[0] not in _NOT_ALWAYS or item[0] in progress.phases]
        while len(shown) > 1 and shown[0][0] != progress.phase and _width(shown) > width:
            shown = shown[1:]
        current = next((index for index, item in enumerate(shown) if item[0] == progress.phase), -1)
        has_ended = progress.state == JobState.JOB_STATE_SUCCEEDED
        text = Text(no_wrap=True, overflow="ellipsis")
        for index, (_, name) in enumerate(shown):
            if index:
                text.append(" ─ ", "faint")
            if has_ended or index < current:
                text.append("✓ ", "good").append(name, "faint")
            elif index == current and progress.is_working:
                text.append(f"{_SPINNER[self.frame % len(_SPINNER)]} ", "accent").append(name, "accent")
            else:
                text.append(f"○ {name}", "faint")
        return text

    def _bar(self, width: int) -> Text:
        metrics = self._progress.metrics
        step, total = metrics.step, metrics.total_steps
        eta = self._progress.eta_seconds
        label = f"  {step:,}/{total:,}  {percent_text(step, total)}" if total else "  waiting"
        if eta is not None and step < total:
            label += f"  {duration_text(eta)} left"
        # Room for the longest label of this run, so that the bar keeps its length.
        room = max(10, width - len(f"  {total:,}/{total:,}  100 %  00m 00s left"))
        filled = min(room, round(room * step / total)) if total else 0
        style = "bad" if self._progress.state == JobState.JOB_STATE_FAILED else "accent"
        head = "╸" if 0 < filled < room else ""
        return Text.assemble(
            ("━" * (filled - len(head)) + head, style),
            ("─" * (room - filled), "faint"),
            one_line(label, width - room),
            no_wrap=True,
        )

    def _chart(self, width: int, rows: int) -> list[RenderableType]:
        """Return the curve of the loss on this many rows, title and axis among them."""
        if rows < _LEAST_CHART:
            return []
        progress = self._progress
        values = [value for _, value in progress.losses]
        plot, height = width - _AXIS - 2, rows - 3
        lines = curve(progress.losses, width=plot, height=height, x_end=max(progress.metrics.total_steps, 1))
        title = Text.assemble(
            ("loss ", "faint"),
            (number_text(values[-1]), "strong"),
            (f"   from {number_text(values[0])}   lowest {number_text(min(values))}", "faint"),
            no_wrap=True,
            overflow="ellipsis",
        )
        drawn: list[RenderableType] = [title]
        for index, line in enumerate(lines):
            edge = {0: number_text(max(values)), height - 1: number_text(min(values))}.get(index, "")
            drawn.append(Text.assemble((f"{edge:>{_AXIS}} │", "faint"), (line, "accent")))
        return [*drawn, Text(" " * (_AXIS + 1) + "└" + "─" * plot, style="faint"), Text()]


def live_screen(output: Output, screen: RunScreen) -> Live:
    """Return the live region for a screen; the caller refreshes it."""
    return Live(screen, console=output.console, auto_refresh=False, vertical_overflow="crop")


def full_screen(output: Output) -> Live:
    """Return a live region that takes the whole terminal and gives it back at its end."""
    return Live(console=output.console, auto_refresh=False, screen=True, vertical_overflow="crop")


def _width(shown: list[tuple[RunPhase.ValueType, str]]) -> int:
    return sum(len(name) + 2 for _, name in shown) + 3 * (len(shown) - 1)
