"""`tunefleet deploy MODEL`: serve a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tunefleet_cli.commands.rollouts import policy_of, rollout_options, say_begun
from tunefleet_cli.exit_codes import FAILED
from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet.deployment.v1.deployment_pb2 import Deployment
    from tunefleet_cli.output.output import Output
    from tunefleet_client import Client

__all__ = ["deploy"]

_POLL_SECONDS = 0.2


@click.command()
@click.argument("model")
@click.option("--name", metavar="NAME", help="Name on the gateway (else the model's own).")
@click.option("--engine", metavar="ENGINE", default="", help="Engine (else the best for the host).")
@click.option(
    "--set",
    "settings",
    metavar="FIELD=VALUE",
    multiple=True,
    help="A setting of its engine: tensor_parallel=2, options.max-num-seqs=64.",
)
@click.option("--replicas", type=click.IntRange(1, 100), metavar="N", help="Engines that serve it (1).")
@click.option("--wait", is_flag=True, help="Until it takes traffic.")
@click.option("--timeout", type=click.IntRange(1), default=600, show_default=True, help="Seconds to wait.")
@rollout_options
@command_options
def deploy(
    invocation: Invocation,
    model: str,
    name: str | None,
    engine: str,
    settings: tuple[str, ...],
    replicas: int | None,
    wait: bool,
    timeout: int,
    **rollout: Any,
) -> None:
    """Serve MODEL: the name of a trained one, a folder, or a Hub id.

    Before it takes traffic, what is served is compared with what was trained,
    in tokens and in numbers. With --canary it is a new version of the deployment
    NAME: it gets the shares one after the other, and the version before takes
    over again if too many requests fail.
    """
    from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec
    from tunefleet_cli.model_reference import model_reference
    from tunefleet_cli.output.sheets import show_deployment
    from tunefleet_cli.output.states import deployment_state, ready_replicas
    from tunefleet_cli.overrides import read_settings
    from tunefleet_client import short_name
    from tunefleet_core.errors import error_from_status

    spec = DeploymentSpec(
        model=model_reference(model),
        engine=engine,
        engine_settings=read_settings(settings),
        replicas=replicas or 0,
    )

    policy = policy_of(**rollout)
    if policy is not None:
        if name is None:
            raise click.UsageError("A roll-out needs the deployment's name: --name NAME.")
        deployed, asked = name, policy  # for the function below
        begun = invocation.ask(lambda client: client.deployments.roll_out(deployed, spec, asked))
        say_begun(invocation, short_name(name), begun, wait_seconds=timeout if wait else None)
        return

    async def create(client: Client) -> Deployment:
        created = await client.deployments.create(spec, deployment_id=name)
        return await _settled(client, created, timeout, invocation.output()) if wait else created

    deployment = invocation.ask(create)
    short, state = short_name(deployment.name), deployment_state(deployment)
    output = invocation.output()
    if state == "FAILED":
        output.error(error_from_status(deployment.error))
        raise click.exceptions.Exit(FAILED)
    if wait and state == "DEGRADED" and output.is_human:
        show_deployment(output, deployment)
        output.gap()
    if state == "DEGRADED":
        text = (
            f"{short} takes traffic with {ready_replicas(deployment)} replicas. {deployment.reason}".rstrip()
        )
        next_step = f"tunefleet deployments get {short}"
    elif state == "READY":
        if output.is_human:
            show_deployment(output, deployment)
            output.gap()
        found = "" if output.is_human else deployment.contract.summary  # a human has just read it
        text = f"{short} takes traffic. {found}".rstrip()
        next_step = f"tunefleet chat {short}"
    else:
        text, next_step = f"{short} is {state.lower()}.", "tunefleet deployments list"
    output.result(deployment, name=short, text=text, next_step=next_step)


async def _settled(
    client: Client, deployment: Deployment, timeout_seconds: float, output: Output
) -> Deployment:
    """Return the deployment once it takes traffic or has failed."""
    import asyncio

    from tunefleet_cli.output.states import deployment_state, is_settling
    from tunefleet_client import short_name
    from tunefleet_core.errors import Reason, TunefleetError

    try:
        async with asyncio.timeout(timeout_seconds):
            while is_settling(deployment):
                await asyncio.sleep(_POLL_SECONDS)
                deployment = await client.deployments.get(deployment.name)
                if any(item.HasField("download") for item in deployment.replicas):
                    deployment = await _fetched(client, deployment, output)
    except TimeoutError:
        short = short_name(deployment.name)
        raise TunefleetError(
            Reason.TIME_LIMIT,
            f"{short} is still {deployment_state(deployment).lower()} after {timeout_seconds:.0f} s. "
            f"{deployment.reason}".rstrip(),
            hint="It goes on by itself: tunefleet deployments list, tunefleet doctor",
            metadata={"deployment": deployment.name},
        ) from None
    return deployment


async def _fetched(client: Client, deployment: Deployment, output: Output) -> Deployment:
    """Return the deployment once its servers have what they fetch; show meanwhile how far they are."""
    import asyncio

    with output.transfer("Fetching what it serves") as show:
        while coming := [item.download for item in deployment.replicas if item.HasField("download")]:
            show(sum(item.done_bytes for item in coming), sum(item.total_bytes for item in coming))
            await asyncio.sleep(_POLL_SECONDS)
            deployment = await client.deployments.get(deployment.name)
    return deployment
