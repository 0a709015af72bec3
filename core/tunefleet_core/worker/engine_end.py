"""What to say of an engine that ended by itself: read off its exit code and its last lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["engine_ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    """What engines, or the libraries below them, write before they end."""

    said: re.Pattern[str]
    reason: Reason
    means: str
    hint: str


_CAUSES = (
    _Cause(
        said=re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE),
        reason=Reason.WORKER_LOST,
        means="its port was taken meanwhile",
        hint="It is started again by itself, on another port.",
    ),
    _Cause(
        # torch, Python, the C library, Metal; vLLM's and SGLang's own words for too small a cache.
        said=re.compile(
            r"out of memory|OutOfMemoryError|\bMemoryError\b|cannot allocate memory|insufficient memory"
            r"|not enough memory|available memory for the cache|available KV cache memory"
            r"|less than desired GPU memory",
            re.IGNORECASE,
        ),
        reason=Reason.OUT_OF_MEMORY,
        means="there was not enough memory",
        hint="Deploy it with a smaller context length, on a quantised base, or on a host with more memory.",
    ),
    _Cause(
        said=re.compile(r"unrecognized arguments|invalid choice:|error: argument ", re.IGNORECASE),
        reason=Reason.BACKEND_FAILED,
        means="it does not take one of its options",
        hint="Correct the option that its last line names: tunefleet deploy --set options.NAME=VALUE",
    ),
)


def engine_ended(exit_code: int, lines: Sequence[str]) -> TunefleetError:
    """Return the error for an engine that ended without being told to.

    Args:
        exit_code: Negative for a signal.
        lines: What it said last.

    Returns:
        WORKER_LOST or OUT_OF_MEMORY for what may pass, else BACKEND_FAILED; the lines are its `log`.
    """
    said = "\n".join(lines)
    metadata = {"exit": str(exit_code), "log": said}
    ended = f"The engine ended with exit code {exit_code}"
    for cause in _CAUSES:
        if cause.said.search(said):
            return TunefleetError(
                cause.reason, f"{ended}: {cause.means}.", hint=cause.hint, metadata=metadata
            )
    if exit_code == -signal.SIGKILL:
        hint = "It was killed, as a system does that runs out of memory. It is started again by itself."
    else:
        hint = "Read the last lines of its log below."
    reason = Reason.WORKER_LOST if exit_code < 0 else Reason.BACKEND_FAILED
    return TunefleetError(reason, f"{ended}.", hint=hint, metadata=metadata)
