"""Whether the coordinator is there, asked beside a watch that survives its absence.

The watch of the SDK bridges a coordinator that restarts without a word. A person
who sees nothing move wants to know why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tunefleet_cli.output.quantities import duration_text
from tunefleet_cli.run_progress import RunProgress
from tunefleet_client import Client, Reason, TunefleetError

__all__ = ["watch_presence"]

_EVERY_SECONDS = 1.0
_ANSWER_SECONDS = 5.0


async def watch_presence(client: Client, progress: RunProgress, say: Callable[[str], None]) -> None:
    """Note in `progress` when the coordinator is away and when it came back; runs until cancelled.

    Args:
        client: Of the coordinator.
        progress: Gets `away_seconds` and `came_back_after_seconds`.
        say: Told once when it goes away and once when it comes back.
    """
    clock = asyncio.get_running_loop().time
    last_answer = clock()
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        if await _answers(client):
            if progress.away_seconds is not None:
                progress.came_back_after_seconds = clock() - last_answer
                progress.away_seconds = None
                say(f"The coordinator is back after {duration_text(progress.came_back_after_seconds)}.")
            last_answer = clock()
            continue
        if progress.away_seconds is None:
            say("The coordinator does not answer; the run goes on without it. Waiting for it.")
        progress.away_seconds = clock() - last_answer


async def _answers(client: Client) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await client.fleet.info()
    except TimeoutError:
        return False
    except TunefleetError as error:
        # Any other answer, a refusal too, comes from a coordinator that is there.
        return error.reason not in (Reason.UNAVAILABLE, Reason.TIME_LIMIT)
    return True
