"""`tunefleet jobs`: what only reads: list, get, watch, logs, checkpoints."""

from __future__ import annotations

import click

from tunefleet_cli.arguments import label_option, limit_option, name_argument
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["checkpoints", "diagnose", "get_job", "list_jobs", "logs", "watch"]

_STATES = (
    *("PENDING", "PREPARING", "RUNNING", "PAUSING", "PAUSED", "WAITING_RETRY", "STOPPING"),
    *("SUCCEEDED", "FAILED", "CANCELLED"),
)


@click.command()
@click.option(
    "--state", "states", type=click.Choice(_STATES, case_sensitive=False), multiple=True, help="Only these."
)
@label_option("Only those that carry it.")
@limit_option("jobs")
@command_options
def list_jobs(invocation: Invocation, states: tuple[str, ...], labels: dict[str, str], limit: int) -> None:
    """List jobs, newest first."""
    from tunefleet.job.v1.state_pb2 import JobState
    from tunefleet_cli.output.lists import JOBS

    wanted = [JobState.Value(f"JOB_STATE_{state.upper()}") for state in states]
    invocation.show_list(JOBS, lambda client: client.jobs.list(states=wanted, labels=labels, limit=limit))


@click.command()
@name_argument("jobs")
@command_options
def get_job(invocation: Invocation, name: str) -> None:
    """Show everything about a job."""
    from tunefleet.job.v1.event_pb2 import Sample
    from tunefleet.job.v1.job_pb2 import Job
    from tunefleet.job.v1.state_pb2 import CheckpointRef
    from tunefleet_cli.history import newest_samples
    from tunefleet_cli.output.jobs import show_job
    from tunefleet_client import Client

    async def read(client: Client) -> tuple[Job, tuple[CheckpointRef, ...], list[Sample]]:
        job = await client.jobs.get(name)
        return job, await client.jobs.checkpoints(name), await newest_samples(client, job)

    job, saved, samples = invocation.ask(read)
    show_job(invocation.output(), job, saved, samples)


@click.command()
@name_argument("jobs")
@limit_option("checkpoints")
@command_options
def checkpoints(invocation: Invocation, name: str, limit: int) -> None:
    """List the committed checkpoints of a job, newest first."""
    from tunefleet_cli.output.lists import CHECKPOINTS

    invocation.show_list(CHECKPOINTS, lambda client: client.jobs.checkpoints(name, limit=limit))


@click.command()
@name_argument("jobs")
@command_options
def diagnose(invocation: Invocation, name: str) -> None:
    """Say what a training job suffers from, with evidence and one next step.

    Looked at in this order: data, template, adapter, curves, learning rate, miniature.
    """
    from tunefleet_cli.output.diagnosis import show_diagnosis

    show_diagnosis(invocation.output(), invocation.ask(lambda client: client.jobs.diagnose(name)))


@click.command()
@name_argument("jobs")
@click.option(
    "--after", "after_sequence", type=click.IntRange(0), default=0, help="Begin after this event (not live)."
)
@command_options
def watch(invocation: Invocation, name: str, after_sequence: int) -> None:
    """Follow a job to its end. Ctrl-C only detaches.

    Exit code 0 if the job succeeded, 1 if it failed or was cancelled.
    """
    from tunefleet_cli.follow import follow_to_end

    follow_to_end(invocation, name, after_sequence=after_sequence)


@click.command()
@name_argument("jobs")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@command_options
def logs(invocation: Invocation, name: str, follow: bool) -> None:
    """Print the lines that a job printed."""
    from contextlib import aclosing

    from tunefleet_client import JobChange

    output = invocation.output()
    count = 0

    async def read() -> None:
        end = 0
        async with invocation.client() as client, aclosing(client.jobs.watch(name)) as changes:
            async for change in changes:
                if change.snapshot is not None and not follow and not end:
                    end = change.snapshot.last_sequence
                    if not end:
                        return
                show(change)
                if change.event is not None and end and change.event.sequence >= end:
                    return

    def show(change: JobChange) -> None:
        nonlocal count
        if change.event is None or not change.event.HasField("log_lines"):
            return
        count += 1
        if output.is_json:
            output.message(change.event)
            return
        for line in change.event.log_lines.lines:
            output.fragment(f"{line}\n")

    invocation.run(read())
    if not count:
        output.note(f"It printed nothing.  tunefleet jobs watch {name} shows its events")
