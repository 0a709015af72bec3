"""Arguments that many commands share: a name that completes itself, a limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

__all__ = [
    "age_seconds",
    "allow_missing_option",
    "label_option",
    "limit_option",
    "name_argument",
    "pairs",
]

_Function = TypeVar("_Function", bound=Callable[..., object])


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return `KEY=VALUE` texts as a mapping.

    Raises:
        click.BadParameter: If one has no `=` or no key.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"'{text}' is not KEY=VALUE.")
        found[key] = value
    return found


def label_option(text: str) -> Callable[[_Function], _Function]:
    """Return `--label KEY=VALUE`, given as `labels`, a mapping."""

    def read(_: click.Context, __: click.Parameter, value: Sequence[str]) -> dict[str, str]:
        return pairs(value)

    return click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, callback=read, help=text)


def age_seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of a text such as `12h` or `7d`; a callback of click options.

    Raises:
        click.BadParameter: If it is none.
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value.strip())
    if match is None:
        raise click.BadParameter(f"'{value}' is no time such as 30m, 12h or 7d.")
    return float(match[1]) * _UNITS[match[2]]


def allow_missing_option(function: _Function) -> _Function:
    """Give a delete command `--allow-missing`."""
    return click.option("--allow-missing", is_flag=True, help="Succeed if there is none.")(function)


def limit_option(noun: str) -> Callable[[_Function], _Function]:
    """Return the `--limit` of a list of `noun`."""
    return click.option(
        "--limit", type=click.IntRange(1), default=50, show_default=True, help=f"Most {noun}."
    )


def name_argument(noun: str, argument: str = "name") -> Callable[[_Function], _Function]:
    """Return a NAME argument that the shell completes with what the coordinator has.

    Args:
        noun: `jobs`, `models`, `deployments` and so on.
        argument: Name of the parameter.
    """

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from tunefleet_cli.completion import names

        return names(noun, incomplete, state=context.find_root().params.get("state"))

    return click.argument(argument, shell_complete=complete)
