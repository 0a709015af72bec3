"""`tunefleet chat MODEL`: talk to a served model through the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tunefleet_cli.arguments import name_argument
from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet_cli.chat_session import ChatSession
    from tunefleet_cli.output import Output

__all__ = ["chat"]


@click.command()
@name_argument("deployments", "model")
@click.option("--message", "-m", metavar="TEXT", help="Ask this and leave; - reads standard input.")
@click.option("--system", metavar="TEXT", default="", help="System message.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Longest answer in tokens.")
@click.option("--temperature", type=click.FloatRange(0), metavar="T", help="0: always the likeliest token.")
@command_options
def chat(
    invocation: Invocation,
    model: str,
    message: str | None,
    system: str,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Talk to a served MODEL, turn by turn until Ctrl-D; /help shows what one can type.

    Ctrl-C stops an answer. In a pipe, every line is a turn.
    """
    import sys

    from tunefleet_cli.chat_session import ChatSession
    from tunefleet_client import short_name

    name = short_name(model) if model.startswith(("projects/", "models/", "deployments/")) else model
    given = {"max_tokens": max_tokens, "temperature": temperature}
    output = invocation.output()
    session = ChatSession(
        output=output,
        gateway=invocation.gateway(),
        model=name,
        options={option: value for option, value in given.items() if value is not None},
        find_base=lambda: _base_of(invocation, name),
        system=system,
    )
    if message is not None:
        session.ask(sys.stdin.read() if message == "-" else message)
    elif sys.stdin.isatty():
        _converse(invocation, output, session)
    else:
        for line in sys.stdin:
            session.take(line.rstrip("\r\n"))


def _converse(invocation: Invocation, output: Output, session: ChatSession) -> None:
    """Read lines from a person until Ctrl-D. What is refused ends a turn, not the talk."""
    from tunefleet_cli.line_editing import line_history
    from tunefleet_core.errors import TunefleetError

    output.note(f"Talking to {session.model}. /help shows what one can type; Ctrl-D leaves.")
    with line_history(invocation.state_folder() / "chat_history"):
        while True:
            try:
                line = input("› ")
            except EOFError:
                output.line()
                return
            except KeyboardInterrupt:
                output.line()
                output.note("Ctrl-D leaves.")
                continue
            try:
                session.take(line)
            except TunefleetError as error:
                output.error(error)
            except KeyboardInterrupt:
                output.note("Stopped.")


def _base_of(invocation: Invocation, name: str) -> str:
    """Return the deployment of the base that a deployment's model was trained on.

    Raises:
        TunefleetError: DEPLOYMENT_NOT_FOUND if the base is not served, FIELD_INVALID if the
            deployment is a base itself.
    """
    from tunefleet_cli.output.states import deployment_state
    from tunefleet_client import Client, short_name
    from tunefleet_core.errors import Reason, TunefleetError

    async def find(client: Client) -> str:
        served = await client.deployments.get(name)
        if not served.spec.model.startswith("models/"):
            raise TunefleetError.field("base", f"{name} is a base itself.", hint="/compare NAME")
        base = (await client.models.get(served.spec.model)).base_model
        for other in await client.deployments.list():
            if other.spec.model == base and deployment_state(other) in ("READY", "DEGRADED"):
                return short_name(other.name)
        raise TunefleetError(
            Reason.DEPLOYMENT_NOT_FOUND,
            f"The base of {name}, {base}, is not served.",
            hint=f"In another terminal: tunefleet deploy {base} --name base --wait",
            metadata={"base": base},
        )

    return invocation.ask(find)
