"""Names for the shell's completion, asked of the coordinator with a short deadline.

A shell that hangs at TAB is worse than one that completes nothing: whatever goes
wrong, or takes longer than a second, there are no names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from tunefleet_client import TunefleetError, connect, short_name

if TYPE_CHECKING:
    from tunefleet_client import Client

__all__ = ["names"]

_DEADLINE_SECONDS = 1.0
_MOST = 200


def names(noun: str, incomplete: str, *, state: str | None) -> list[CompletionItem]:
    """Return the short names of a noun that begin with what was typed."""
    try:
        found = asyncio.run(_ask(noun, state))
    except (TunefleetError, TimeoutError, OSError):
        return []
    return [CompletionItem(name, help=text) for name, text in found if name.startswith(incomplete)]


async def _ask(noun: str, state: str | None) -> list[tuple[str, str]]:
    async with asyncio.timeout(_DEADLINE_SECONDS), connect(state_folder=state) as client:
        return await _QUESTIONS[noun](client)


async def _jobs(client: Client) -> list[tuple[str, str]]:
    from tunefleet_cli.run_progress import state_name

    jobs = await client.jobs.list(limit=_MOST)
    return [(short_name(job.name), state_name(job.state).lower()) for job in jobs]


def _named(items: Sequence[str]) -> list[tuple[str, str]]:
    return [(short_name(item), "") for item in items]


async def _models(client: Client) -> list[tuple[str, str]]:
    return _named([item.name for item in await client.models.list(limit=_MOST)])


async def _datasets(client: Client) -> list[tuple[str, str]]:
    return _named([item.name for item in await client.datasets.list(limit=_MOST)])


async def _deployments(client: Client) -> list[tuple[str, str]]:
    return _named([item.name for item in await client.deployments.list(limit=_MOST)])


async def _tokens(client: Client) -> list[tuple[str, str]]:
    return [(short_name(item.name), item.role) for item in await client.tokens.list(limit=_MOST)]


async def _services(client: Client) -> list[tuple[str, str]]:
    return _named([item.name for item in await client.fleet.list(limit=_MOST)])


_QUESTIONS: Mapping[str, Callable[[Client], Awaitable[list[tuple[str, str]]]]] = {
    "jobs": _jobs,
    "datasets": _datasets,
    "models": _models,
    "deployments": _deployments,
    "services": _services,
    "tokens": _tokens,
}
