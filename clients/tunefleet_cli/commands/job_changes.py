"""`tunefleet jobs`: what changes a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tunefleet_cli.arguments import allow_missing_option, label_option, name_argument
from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet.job.v1.job_pb2 import Job
    from tunefleet_client import Client

__all__ = ["cancel", "checkpoint", "delete", "pause", "resume", "retry", "update"]


@click.command()
@name_argument("jobs")
@command_options
def cancel(invocation: Invocation, name: str) -> None:
    """Ask a job to stop; it is CANCELLED when its processes are proven gone."""
    job = invocation.ask(lambda client: client.jobs.cancel(name))
    _say(invocation, job, {"CANCELLED": "is cancelled"}, otherwise="is being stopped")


@click.command()
@name_argument("jobs")
@command_options
def pause(invocation: Invocation, name: str) -> None:
    """Save the exact state of a job and give its devices back."""
    job = invocation.ask(lambda client: client.jobs.pause(name))
    _say(invocation, job, {"PAUSED": "is paused"}, otherwise="saves its state and pauses")


@click.command()
@name_argument("jobs")
@command_options
def checkpoint(invocation: Invocation, name: str) -> None:
    """Have a job at work save its state as soon as it can, and go on."""
    job = invocation.ask(lambda client: client.jobs.checkpoint(name))
    _say(invocation, job, {}, otherwise="saves its state and goes on")


@click.command()
@name_argument("jobs")
@command_options
def resume(invocation: Invocation, name: str) -> None:
    """Put a paused job back into the queue; it goes on from where it saved."""
    job = invocation.ask(lambda client: client.jobs.resume(name))
    _say(invocation, job, {"PENDING": "is back in the queue"}, otherwise="goes on")


@click.command()
@name_argument("jobs")
@click.option("--from-start", is_flag=True, help="Begin anew, not at the newest checkpoint.")
@command_options
def retry(invocation: Invocation, name: str, from_start: bool) -> None:
    """Try a failed or cancelled job again, or end the waiting of one that waits."""
    job = invocation.ask(lambda client: client.jobs.retry(name, from_start=from_start))
    _say(invocation, job, {}, otherwise="is back in the queue")


@click.command()
@name_argument("jobs")
@label_option("Set a label; `KEY=` takes it away.")
@click.option("--priority", type=int, metavar="N", help="Higher runs first; counts until a device is given.")
@command_options
def update(invocation: Invocation, name: str, labels: dict[str, str], priority: int | None) -> None:
    """Change labels and priority of a job; labels that are not named stay."""
    if not labels and priority is None:
        raise click.UsageError("Say what to change: --label KEY=VALUE or --priority N.")

    async def change(client: Client) -> Job:
        if not labels:
            return await client.jobs.update(name, priority=priority)
        job = await client.jobs.get(name)
        merged = {key: value for key, value in {**job.labels, **labels}.items() if value}
        # The etag refuses if somebody else changed the labels between our reading and writing.
        return await client.jobs.update(name, labels=merged, priority=priority, etag=job.etag)

    job = invocation.ask(change)
    _say(invocation, job, {}, otherwise="is changed", next_step="get")


@click.command()
@name_argument("jobs")
@allow_missing_option
@command_options
def delete(invocation: Invocation, name: str, allow_missing: bool) -> None:
    """Remove an ended job with its events and checkpoints; a model it made stays."""
    from tunefleet.job.v1.job_service_pb2 import DeleteJobResponse
    from tunefleet_client import short_name

    invocation.ask(lambda client: client.jobs.delete(name, allow_missing=allow_missing))
    short = short_name(name)
    invocation.output().result(
        DeleteJobResponse(),
        name=short,
        text=f"Job {short} is removed.",
        next_step="tunefleet prune --dry-run",
    )


def _say(
    invocation: Invocation, job: Job, texts: dict[str, str], *, otherwise: str, next_step: str = ""
) -> None:
    """Say where a job stands after a change, and how to see what comes of it."""
    from tunefleet_cli.run_progress import state_name
    from tunefleet_client import is_terminal, short_name

    short, state = short_name(job.name), state_name(job.state)
    verb = next_step or {"PAUSED": "resume"}.get(state) or ("get" if is_terminal(job) else "watch")
    invocation.output().result(
        job,
        name=short,
        text=f"Job {short} {texts.get(state, otherwise)}.",
        next_step=f"tunefleet jobs {verb} {short}",
    )
