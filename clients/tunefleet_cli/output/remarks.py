"""What there is to say about a run besides its numbers, most important first, a row each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text

from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet_cli.output.events import (
    collapse_text,
    download_text,
    forgetting_text,
    preflight_text,
    rollback_text,
    spike_text,
    stopped_text,
)
from tunefleet_cli.output.quantities import duration_text
from tunefleet_cli.output.theme import state_text
from tunefleet_cli.run_progress import RunProgress, state_name
from tunefleet_client import short_name

__all__ = ["log_rows", "one_line", "remarks", "sample_rows"]

_NOTICES = 2
_ATTEMPTS = 2


def remarks(progress: RunProgress, *, width: int) -> list[Text]:
    """Return rows for what is wrong, what is waited for and what was noticed."""
    rows = [*_coordinator(progress), *_state(progress)]
    for ended in reversed(progress.attempts[-_ATTEMPTS:]):
        reason = f": {ended.reason}" if ended.reason else ""
        if ended.outcome not in ("SUCCEEDED", "PAUSED"):
            rows.append(("WAITING_RETRY", f"attempt {ended.attempt} {ended.outcome}{reason}"))
    if progress.phase == RunPhase.RUN_PHASE_DOWNLOADING and progress.download is not None:
        rows.append(("INFO", download_text(progress.download)))
    if progress.rollback is not None:
        rows.append(("WARNING", f"rollback {rollback_text(progress.rollback)}"))
    if progress.spike is not None:
        rows.append(("WARNING", f"spike {spike_text(progress.spike)}"))
    if progress.collapse is not None:
        rows.append(("WARNING", f"experts {collapse_text(progress.collapse)}"))
    if progress.forgetting is not None:
        rows.append(("WARNING", f"forgetting {forgetting_text(progress.forgetting)}"))
    if progress.stopped_early is not None:
        rows.append(("INFO", f"stopped {stopped_text(progress.stopped_early)}"))
    if progress.gaps:
        rows.append(("WARNING", f"{progress.gaps:,} events were lost to a bound."))
    for notice in reversed(progress.notices[-_NOTICES:]):
        rows.append(("WARNING" if notice.severity == "warning" else "INFO", notice.text))
    if progress.preflight is not None:
        rows.append(("OK", f"preflight: {preflight_text(progress.preflight)}"))
    return [state_text(state, label=one_line(text, width - 2)) for state, text in rows]


def sample_rows(progress: RunProgress, *, width: int, rows: int) -> list[Text]:
    """Return the newest samples, two rows each: the prompt, then the answer."""
    shown: list[Text] = []
    for sample in list(progress.samples)[-(rows // 2) :] if rows >= 2 else ():
        prompt = one_line(f"step {sample.step:,} › {sample.prompt}", width)
        shown += [Text(prompt, style="faint"), Text(one_line(f"  {sample.answer}", width))]
    return shown


def log_rows(progress: RunProgress, *, width: int, rows: int) -> list[Text]:
    """Return the newest lines that the run printed."""
    lines: Sequence[str] = list(progress.log_lines)[-rows:] if rows > 0 else []
    return [Text(f"│ {one_line(line, width - 2)}", style="faint") for line in lines]


def one_line(text: str, width: int) -> str:
    """Return text on one row of this width, with nothing that could move the cursor."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    if len(printable) <= width:
        return printable
    # textwrap gives back only the placeholder for one long word.
    shortened = textwrap.shorten(printable, max(width, 1), placeholder="…")
    return shortened if len(shortened) > width // 2 else printable[: max(width - 1, 0)] + "…"


def _coordinator(progress: RunProgress) -> list[tuple[str, str]]:
    if progress.away_seconds is not None:
        away = duration_text(progress.away_seconds)
        return [("WARNING", f"The coordinator has been away for {away}; the run goes on without it.")]
    if progress.came_back_after_seconds is not None:
        return [("OK", f"The coordinator is back after {duration_text(progress.came_back_after_seconds)}.")]
    return []


def _state(progress: RunProgress) -> list[tuple[str, str]]:
    name, job = state_name(progress.state), progress.job
    short = short_name(job.name)
    match name:
        case "PAUSING":
            return [("PAUSING", "Saving its exact state, then it gives the device back.")]
        case "PAUSED":
            return [("PAUSED", f"Holds no device.  tunefleet jobs resume {short}")]
        case "WAITING_RETRY":
            return [("WAITING_RETRY", f"Waits for its next try.  tunefleet jobs retry {short}")]
        case "FAILED" if job.error.message:
            return [("FAILED", job.error.message)]
        case _:
            return []
