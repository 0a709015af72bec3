"""The numbers of a run as a grid: value and, where there is a history, a sparkline."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from tunefleet_cli.output.chart import sparkline
from tunefleet_cli.output.quantities import bytes_text, count_text, number_text, rate_text
from tunefleet_cli.run_progress import RunProgress

__all__ = ["cells", "figures"]

_LONGEST_LINE = 12


def cells(progress: RunProgress) -> list[tuple[str, str, Sequence[float]]]:
    """Return name, value and history of every number that was reported; the loss is the first."""
    metrics = progress.metrics
    validation = [value for _, value in progress.validation_losses]
    found: list[tuple[str, str, Sequence[float]]] = []
    losses = [value for _, value in progress.losses]
    if losses:
        found.append(("loss", number_text(losses[-1]), losses))
    if metrics.HasField("validation_loss"):
        found.append(("eval", number_text(metrics.validation_loss), validation))
    if metrics.HasField("tokens_per_second"):
        found.append(("speed", f"{count_text(metrics.tokens_per_second)} tok/s", progress.speeds))
    if metrics.HasField("learning_rate"):
        found.append(("rate", rate_text(metrics.learning_rate), progress.learning_rates))
    if metrics.HasField("peak_memory_bytes"):
        found.append(("memory", bytes_text(metrics.peak_memory_bytes), ()))
    if metrics.HasField("mfu"):
        found.append(("MFU", f"{metrics.mfu:.0%}", ()))
    if metrics.HasField("epoch"):
        found.append(("epoch", f"{metrics.epoch:.2f}", ()))
    if progress.best is not None:
        found.append(("best", f"step {progress.best.step:,}", ()))
    if progress.checkpoint is not None:
        found.append(("checkpoint", f"step {progress.checkpoint.step:,}", ()))
    return found


def figures(progress: RunProgress, *, width: int, columns: int, has_chart: bool) -> RenderableType:
    """Return the numbers side by side; the loss only where no chart shows it."""
    column_width = width // columns - 2
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    for _ in range(columns):
        grid.add_column(width=column_width, no_wrap=True, overflow="ellipsis")
    texts: list[Text] = []
    for name, value, history in cells(progress)[has_chart:]:
        room = min(_LONGEST_LINE, column_width - len(name) - len(value) - 3)
        line = sparkline(history, width=room, from_zero=name in ("speed", "rate"))
        texts.append(Text.assemble((f"{name} ", "faint"), (value, "strong"), (f"  {line}", "accent")))
    for begin in range(0, len(texts), columns):
        grid.add_row(*texts[begin : begin + columns])
    return grid
