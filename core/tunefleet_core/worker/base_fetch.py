"""Have a Hub base on the disk before a rank or an engine needs it.

The fetch runs in a child process: it can be stopped at once, and nothing of the
library that fetches is loaded beside gRPC. Whoever cancels the call ends the child.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from tunefleet.job.v1.event_pb2 import Download
from tunefleet_core.catalog import has_weights
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["fetch_base", "is_missing"]

_TERM_GRACE_SECONDS = 0.5
_KEPT_ERROR_BYTES = 2_000


def is_missing(folder: str, commit: str) -> bool:
    """Return whether a base is a Hub model of which only the small files are here."""
    return bool(commit) and not has_weights(Path(folder))


async def fetch_base(model: str, commit: str, tell: Callable[[Download], None]) -> None:
    """Fetch the weights of a Hub model; goes on where an earlier fetch stopped.

    Args:
        model: The Hub id.
        commit: The commit that the plan was made with.
        tell: Gets the progress, about once a second.

    Raises:
        TunefleetError: HUB_UNREACHABLE, HUB_ACCESS_DENIED, DISK_FULL, BASE_INVALID; WORKER_LOST
            if the child ended without a word.
    """
    arguments = ("-m", "tunefleet_core.catalog.hub_fetch", "--model", model, "--commit", commit)
    # A rank works offline; what fetches for it must not.
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.TaskGroup() as group:
            complaint = group.create_task(_last_words(child))
            error = await _follow(child, f"{model}@{commit[:12]}", tell)
            code = await child.wait()
    finally:
        await _end(child)
    if error is not None:
        raise error
    if code:
        raise TunefleetError(
            Reason.WORKER_LOST,
            f"The process that fetched '{model}' ended with exit code {code}.",
            hint="It is tried again, and goes on where it stopped.",
            metadata={"model": model, "exit": str(code), "log": complaint.result()},
        )


async def _follow(
    child: asyncio.subprocess.Process, what: str, tell: Callable[[Download], None]
) -> TunefleetError | None:
    assert child.stdout is not None  # a pipe
    error: TunefleetError | None = None
    async for raw in child.stdout:
        try:
            line = cast("dict[str, object]", json.loads(raw))
        except ValueError:
            continue  # a library printed something
        failure = line.get("error")
        if isinstance(failure, dict):
            error = _error(cast("dict[str, object]", failure))
        elif isinstance(line.get("total_bytes"), int):
            done, total = cast("int", line.get("done_bytes", 0)), cast("int", line["total_bytes"])
            tell(Download(what=what, done_bytes=done, total_bytes=total))
    return error


def _error(failure: dict[str, object]) -> TunefleetError:
    metadata = cast("dict[str, str]", failure.get("metadata") or {})
    return TunefleetError(
        Reason(str(failure.get("reason"))),
        str(failure.get("message")),
        hint=str(failure.get("hint") or ""),
        metadata=metadata,
    )


async def _last_words(child: asyncio.subprocess.Process) -> str:
    assert child.stderr is not None  # a pipe
    kept = b""
    while piece := await child.stderr.read(1 << 16):
        kept = (kept + piece)[-_KEPT_ERROR_BYTES:]
    return kept.decode("utf-8", "replace")


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    try:
        child.terminate()
        try:
            async with asyncio.timeout(_TERM_GRACE_SECONDS):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
    except ProcessLookupError:
        await child.wait()
