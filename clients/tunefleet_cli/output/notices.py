"""How notices look: what is unusual, what to do, and what is usual according to whom."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from tunefleet.job.v1.event_pb2 import Notice
from tunefleet_cli.output.output import Output, hanging
from tunefleet_cli.output.theme import state_text

__all__ = ["show_notices"]


def show_notices(output: Output, notices: Sequence[Notice]) -> None:
    """Print what a person should know of a job, if there is anything."""
    if not notices:
        return
    output.heading("Notices")
    for notice in notices:
        state = "WARNING" if notice.severity == "warning" else "INFO"
        hint = f"  {notice.hint}" if notice.hint else ""
        line = Text.assemble(state_text(state, label=notice.text), (hint, "faint"))
        usual = f"usual: {notice.usual} ({notice.source})" if notice.usual else ""
        if output.is_human:
            output.show(line)
            if usual:
                output.show(hanging(Text("  "), Text(usual, style="faint")))
        else:
            output.line(f"{line.plain}  {usual}" if usual else line.plain)
