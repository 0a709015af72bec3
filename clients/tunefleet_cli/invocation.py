"""What every command has in common: output options, a client, one way to fail."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from tunefleet_cli.exit_codes import INTERRUPTED, OK, exit_code

if TYPE_CHECKING:
    from tunefleet_cli.gateway_chat import Gateway
    from tunefleet_cli.output import Output
    from tunefleet_cli.output.listing import Listing
    from tunefleet_client import Client

__all__ = ["Invocation", "command_options"]

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of the command line."""

    state: str | None
    is_debug: bool
    is_json: bool
    is_plain: bool
    is_quiet: bool = False

    def output(self) -> Output:
        """Return where to print."""
        from tunefleet_cli.output import open_output

        return open_output(is_json=self.is_json, is_plain=self.is_plain, is_quiet=self.is_quiet)

    def client(self) -> AbstractAsyncContextManager[Client]:
        """Return a client of the coordinator, not yet connected."""
        from tunefleet_client import connect

        return connect(state_folder=self.state)

    def state_folder(self) -> Path:
        """Return the state folder in use."""
        from tunefleet_client import state_folder

        return state_folder(self.state)

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine to its end."""
        return asyncio.run(work)

    def ask(self, question: Callable[[Client], Awaitable[_Result]]) -> _Result:
        """Ask the coordinator one thing and return the answer.

        Example:
            >>> job = invocation.ask(lambda client: client.jobs.get("tickets"))  # doctest: +SKIP
        """

        async def answer() -> _Result:
            async with self.client() as client:
                return await question(client)

        return self.run(answer())

    def gateway(self) -> Gateway:
        """Return the gateway: that of the state folder, else one that is attached to the coordinator.

        Raises:
            TunefleetError: UNAVAILABLE if there is none.
        """
        from tunefleet_cli.gateway_chat import Gateway
        from tunefleet_client import find_target
        from tunefleet_core.errors import Reason, TunefleetError

        target = find_target(folder=self.state)

        async def attached(client: Client) -> str:
            addresses = (item.endpoints.get("openai", "") for item in await client.fleet.list())
            return next((address.removesuffix("/v1") for address in addresses if address), "")

        url = target.gateway or self.ask(attached)
        if not url:
            raise TunefleetError(
                Reason.UNAVAILABLE,
                f"The fleet at {target.address} has no gateway.",
                hint="tunefleet up, or tunefleet doctor",
            )
        return Gateway(url=url, token=target.token, authority=target.authority)

    def show_list(
        self, listing: Listing[_Item], question: Callable[[Client], Awaitable[Sequence[_Item]]]
    ) -> None:
        """Ask for a list and print it."""
        listing.show(self.output(), self.ask(question))

    def fail(self, error: BaseException) -> NoReturn:
        """Show an error and leave with its exit code."""
        from tunefleet_core.errors import from_exception

        if self.is_debug:
            sys.excepthook(type(error), error, error.__traceback__)
        known = from_exception(error)
        self.output().error(known)
        raise click.exceptions.Exit(exit_code(known.code))


def command_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command --json, --plain and --quiet, an Invocation as first argument, and one way to fail."""

    @click.option("--json", "is_json", is_flag=True, help="JSON, one document per line, for programs.")
    @click.option("--plain", "is_plain", is_flag=True, help="No colour, no live view.")
    @click.option("--quiet", "-q", "is_quiet", is_flag=True, help="Only data and errors.")
    @click.pass_context
    @functools.wraps(function)
    def wrapper(
        context: click.Context, *, is_json: bool, is_plain: bool, is_quiet: bool, **values: object
    ) -> None:
        root = cast("dict[str, Any]", context.find_root().obj or {})
        invocation = Invocation(
            state=root.get("state"),
            is_debug=bool(root.get("debug")),
            is_json=is_json,
            is_plain=is_plain,
            is_quiet=is_quiet,
        )
        try:
            function(invocation, **values)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except BrokenPipeError:
            # The reader (`| head`) has what it wanted. Python would complain at exit otherwise.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(OK) from None
        except KeyboardInterrupt:
            invocation.output().note("Interrupted.")
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:
            invocation.fail(error)

    return wrapper
