"""`tunefleet deployments`: new versions of what is served, from a few callers to all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunefleet_cli.arguments import age_seconds, name_argument, pairs
from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet.deployment.v1.rollout_pb2 import Rollout, RolloutPolicy
    from tunefleet_client import Client

__all__ = ["policy_of", "promote", "rollback", "rollout", "rollout_options", "say_begun", "watch"]

_Function = TypeVar("_Function", bound=Callable[..., object])
_POLL_SECONDS = 0.2


def _read_steps(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part.strip().removesuffix("%")) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is no list of percentages such as 5,25,100.") from None


def _read_scores(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, float]:
    try:
        return {metric: float(least) for metric, least in pairs(value).items()}
    except ValueError:
        raise click.BadParameter("a score is a number, such as exact_match=0.8.") from None


def rollout_options(function: _Function) -> _Function:
    """Give a command the options of a roll-out; `--canary` makes it one."""
    options = (
        click.option(
            "--canary",
            metavar="PERCENTS",
            callback=_read_steps,
            help="Roll it out as a new version of the deployment NAME: 5,25,100.",
        ),
        click.option(
            "--bake", metavar="TIME", callback=age_seconds, help="Each step's time (else promote by hand)."
        ),
        click.option(
            "--sticky", type=click.Choice(("user", "session", "none")), help="What stays with one version."
        ),
        click.option(
            "--max-error-rate", type=click.FloatRange(0, 1), metavar="SHARE", help="More: back (0.05)."
        ),
        click.option(
            "--max-latency-ratio", type=click.FloatRange(1), metavar="TIMES", help="Slower to begin: back."
        ),
        click.option(
            "--min-requests", type=click.IntRange(0), metavar="N", help="Before a step is judged (20)."
        ),
        click.option("--evaluate", metavar="JOB", help="Job that must succeed before the second step."),
        click.option(
            "--min-score",
            "min_scores",
            metavar="METRIC=VALUE",
            multiple=True,
            callback=_read_scores,
            help="A score that job must reach.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def policy_of(**given: Any) -> RolloutPolicy | None:
    """Return the policy that the options of a roll-out say; None: it is none.

    Raises:
        click.UsageError: If there are options of a roll-out without `--canary`.
    """
    from tunefleet.deployment.v1.rollout_pb2 import RolloutPolicy, StickyKey

    steps = given.pop("canary")
    if steps is None:
        if any(value is not None and value != {} for value in given.values()):
            raise click.UsageError("This is an option of a roll-out: give --canary 5,25,100 too.")
        return None
    policy = RolloutPolicy(
        steps=steps,
        max_error_rate=given["max_error_rate"],
        max_latency_ratio=given["max_latency_ratio"],
        min_requests=given["min_requests"],
        min_scores=given["min_scores"],
    )
    if given["bake"] is not None:
        policy.bake.FromNanoseconds(round(given["bake"] * 1e9))
    if given["sticky"]:
        policy.sticky = StickyKey.Value(f"STICKY_KEY_{given['sticky'].upper()}")
    if given["evaluate"]:
        policy.evaluate_job = given["evaluate"]
    return policy


def say_begun(invocation: Invocation, name: str, begun: Rollout, *, wait_seconds: float | None) -> None:
    """Say where a roll-out stands that was just begun.

    Args:
        name: Short name of the deployment.
        begun: The roll-out.
        wait_seconds: How long to wait until the candidate is loaded; None: not at all.
    """
    from tunefleet_cli.exit_codes import FAILED
    from tunefleet_cli.output.rollouts import rollout_state

    found = begun
    if wait_seconds is not None:
        found = invocation.ask(lambda client: _loaded(client, name, begun, wait_seconds))
    state = rollout_state(found.state)
    output = invocation.output()
    if state == "ROLLED_BACK":
        output.failed(
            f"{name} was rolled back: {found.reason}", next_step=f"tunefleet deployments get {name}"
        )
        raise click.exceptions.Exit(FAILED)
    version = f"Version {found.candidate.number} of {name}"
    text = (
        f"{version} is being loaded." if state == "LOADING" else f"{version} has {found.candidate.weight} %."
    )
    output.result(found, name=name, text=text, next_step=f"tunefleet deployments watch {name}")


async def _loaded(client: Client, name: str, rollout: Rollout, seconds: float) -> Rollout:
    import asyncio

    from tunefleet_cli.output.rollouts import rollout_state
    from tunefleet_core.errors import Reason, TunefleetError

    try:
        async with asyncio.timeout(seconds):
            while rollout_state(rollout.state) == "LOADING":
                await asyncio.sleep(_POLL_SECONDS)
                rollout = await client.deployments.rollout(name) or rollout
    except TimeoutError:
        raise TunefleetError(
            Reason.TIME_LIMIT,
            f"The new version of {name} is still loaded after {seconds:.0f} s.",
            hint=f"It goes on by itself: tunefleet deployments watch {name}",
            metadata={"deployment": name},
        ) from None
    return rollout


@click.command()
@name_argument("deployments")
@command_options
def rollout(invocation: Invocation, name: str) -> None:
    """Show the roll-out of a deployment that goes on, else the last one."""
    from tunefleet_cli.output.rollouts import show_rollout
    from tunefleet_client import short_name

    output = invocation.output()
    found = invocation.ask(lambda client: client.deployments.rollout(name))
    short = short_name(name)
    if found is None:
        output.done(
            f"{short} never had a roll-out.",
            next_step=f"tunefleet deploy MODEL --name {short} --canary 5,25,100 --bake 10m",
        )
        return
    show_rollout(output, short, found)


@click.command()
@name_argument("deployments")
@click.option("--all", "to_last_step", is_flag=True, help="To 100 percent, not to the next step.")
@command_options
def promote(invocation: Invocation, name: str, to_last_step: bool) -> None:
    """Take the next step of a roll-out now; at 100 percent, end it."""
    from tunefleet_cli.output.rollouts import rollout_state
    from tunefleet_client import short_name

    found = invocation.ask(lambda client: client.deployments.promote(name, to_last_step=to_last_step))
    short, version = short_name(name), found.candidate.number
    if rollout_state(found.state) == "SUCCEEDED":
        text, next_step = f"{short} is version {version} now.", f"tunefleet deployments get {short}"
    else:
        text = f"Version {version} of {short} has {found.candidate.weight} % of the traffic."
        next_step = f"tunefleet deployments watch {short}"
    invocation.output().result(found, name=short, text=text, next_step=next_step)


@click.command()
@name_argument("deployments")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the history.")
@command_options
def rollback(invocation: Invocation, name: str, reason: str) -> None:
    """Give all of the traffic back to the version before, at once."""
    from tunefleet_client import short_name

    found = invocation.ask(lambda client: client.deployments.roll_back(name, reason=reason))
    short = short_name(name)
    text = f"Version {found.current.number} of {short} has all of the traffic again."
    invocation.output().result(
        found, name=short, text=text, next_step=f"tunefleet deployments rollout {short}"
    )


@click.command()
@name_argument("deployments")
@click.option("--after", "after_sequence", type=click.IntRange(0), default=0, help="Begin after this event.")
@command_options
def watch(invocation: Invocation, name: str, after_sequence: int) -> None:
    """Print what happens to a deployment until it is gone. Ctrl-C only detaches."""
    from contextlib import aclosing

    from tunefleet_cli.exit_codes import INTERRUPTED
    from tunefleet_cli.output.rollouts import deployment_event_lines
    from tunefleet_client import DeploymentChange, short_name

    output = invocation.output()

    def show(change: DeploymentChange) -> None:
        if output.is_json:
            output.message(change.snapshot or change.event)  # type: ignore[arg-type]  # it has one of the two
        elif change.event is not None:
            for line in deployment_event_lines(change.event):
                output.line(line)

    async def follow() -> None:
        async with (
            invocation.client() as client,
            aclosing(client.deployments.watch(name, after_sequence)) as changes,
        ):
            async for change in changes:
                show(change)

    short = short_name(name)
    try:
        invocation.run(follow())
    except KeyboardInterrupt:
        output.done(f"Detached; {short} goes on.", next_step=f"tunefleet deployments watch {short}")
        raise click.exceptions.Exit(INTERRUPTED) from None
    if not output.is_json:
        output.done(f"{short} is gone.", next_step="tunefleet deployments list")
