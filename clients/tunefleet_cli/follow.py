"""Follow a job to its end: live for people, lines for pipes, JSON for programs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import click

from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_cli.exit_codes import FAILED, INTERRUPTED
from tunefleet_cli.invocation import Invocation
from tunefleet_cli.output import Output
from tunefleet_cli.output.events import event_lines
from tunefleet_cli.output.jobs import job_next_step, show_scores
from tunefleet_cli.output.live import RunScreen, live_screen
from tunefleet_cli.output.quantities import duration_text
from tunefleet_cli.presence import watch_presence
from tunefleet_cli.run_progress import RunProgress
from tunefleet_client import Client, short_name

__all__ = ["follow_to_end"]

_FRAME_SECONDS = 0.125
_PATIENCE_SECONDS = 3600.0
"""How long the coordinator may be away: a person sees it and can leave; a run goes on without it."""


def follow_to_end(invocation: Invocation, name: str, *, after_sequence: int = 0) -> None:
    """Follow a job, say how it ended, and leave with an exit code that tells it.

    Raises:
        click.exceptions.Exit: 1 if the job did not succeed, 130 on Ctrl-C, which only detaches.
    """
    output = invocation.output()
    try:
        job = invocation.ask(lambda client: _follow(client, name, output, after_sequence=after_sequence))
    except KeyboardInterrupt:
        output.done(
            f"Detached; {short_name(name)} goes on.", next_step=f"tunefleet jobs watch {short_name(name)}"
        )
        raise click.exceptions.Exit(INTERRUPTED) from None
    if not output.is_json:
        _say_end(output, job)
    if job.state != JobState.JOB_STATE_SUCCEEDED:
        raise click.exceptions.Exit(FAILED)


async def _follow(client: Client, name: str, output: Output, *, after_sequence: int) -> Job:
    progress = RunProgress()
    if output.is_human:
        await _follow_live(client, name, output, progress)
    else:
        await _follow_lines(client, name, output, progress, after_sequence=after_sequence)
    return progress.job


async def _follow_lines(
    client: Client, name: str, output: Output, progress: RunProgress, *, after_sequence: int
) -> None:
    """Print a line per event; what is about the coordinator and not the job goes to stderr."""

    def say(text: str) -> None:
        if not output.is_json:
            output.note(text)

    changes = client.jobs.watch(name, after_sequence, give_up_seconds=_PATIENCE_SECONDS)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch_presence(client, progress, say))
        async with aclosing(changes):
            async for change in changes:
                progress.apply(change)
                if output.is_json:
                    output.message(change.snapshot or change.event or Job())
                elif change.event is not None:
                    for line in event_lines(change.event, progress):
                        output.line(line)
        watching.cancel()


async def _follow_live(client: Client, name: str, output: Output, progress: RunProgress) -> None:
    screen = RunScreen(progress)
    changes = client.jobs.watch(name, give_up_seconds=_PATIENCE_SECONDS)
    with live_screen(output, screen) as live:

        async def draw() -> None:
            while True:
                live.refresh()
                await asyncio.sleep(_FRAME_SECONDS)
                screen.frame += 1

        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(draw()),
                group.create_task(watch_presence(client, progress, lambda _: None)),
            ]
            async with aclosing(changes):
                async for change in changes:
                    progress.apply(change)
            for task in beside:
                task.cancel()
        live.refresh()


def _say_end(output: Output, job: Job) -> None:
    name = short_name(job.name)
    next_step = job_next_step(job)
    if job.result.scores:
        output.gap()
        show_scores(output, job.result.scores)
        output.gap()
    took = ""
    if job.start_time.seconds and job.end_time.seconds:
        span = job.end_time.ToDatetime() - job.start_time.ToDatetime()
        took = f" in {duration_text(span.total_seconds())}"
    match job.state:
        case JobState.JOB_STATE_SUCCEEDED:
            made = f"; it made model {short_name(job.result.model)}" if job.result.model else ""
            output.done(f"Job {name} succeeded{took}{made}.", next_step=next_step)
        case JobState.JOB_STATE_CANCELLED:
            output.failed(f"Job {name} was cancelled{took}.", next_step=next_step)
        case _:
            why = f": {job.error.message}" if job.error.message else "."
            output.failed(f"Job {name} failed{took}{why}", next_step=next_step)
