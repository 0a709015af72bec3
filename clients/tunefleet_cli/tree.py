"""The tree of commands: every noun and verb, in one place.

A command is named here and written in `commands/`. The nouns are those of the
API. Nothing is imported before it is used, so that `--help` stays instant; the
short cuts carry their help here for the same reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click

__all__ = ["NOUNS", "SHORTCUTS", "NounGroup", "RootGroup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noun:
    """A noun of the API.

    Attributes:
        help: One line.
        verbs: Verb to `module:attribute` below `tunefleet_cli.commands`.
    """

    help: str
    verbs: Mapping[str, str]


NOUNS: Mapping[str, _Noun] = {
    "jobs": _Noun(
        help="Create, follow and steer jobs.",
        verbs={
            "list": "jobs:list_jobs",
            "get": "jobs:get_job",
            "watch": "jobs:watch",
            "logs": "jobs:logs",
            "checkpoints": "jobs:checkpoints",
            "diagnose": "jobs:diagnose",
            "create": "train:train",
            "plan": "plan:plan",
            "cancel": "job_changes:cancel",
            "pause": "job_changes:pause",
            "checkpoint": "job_changes:checkpoint",
            "resume": "job_changes:resume",
            "retry": "job_changes:retry",
            "update": "job_changes:update",
            "delete": "job_changes:delete",
        },
    ),
    "datasets": _Noun(
        help="Rows to train and score on.",
        verbs={
            "list": "datasets:list_datasets",
            "get": "datasets:get_dataset",
            "create": "datasets:create_dataset",
            "delete": "datasets:delete_dataset",
            "check": "datasets:check",
        },
    ),
    "models": _Noun(
        help="What jobs produced.",
        verbs={
            "list": "models:list_models",
            "get": "models:get_model",
            "fetch": "models:fetch_model",
            "export": "export:export",
            "delete": "models:delete_model",
        },
    ),
    "deployments": _Noun(
        help="What is served.",
        verbs={
            "list": "deployments:list_deployments",
            "get": "deployments:get_deployment",
            "create": "deploy:deploy",
            "scale": "deployments:scale",
            "watch": "rollouts:watch",
            "rollout": "rollouts:rollout",
            "promote": "rollouts:promote",
            "rollback": "rollouts:rollback",
            "delete": "deployments:delete",
        },
    ),
    "fleet": _Noun(
        help="The services that do the work.",
        verbs={
            "list": "fleet:list_services",
            "get": "fleet:get_service",
            "info": "fleet:info",
            "top": "top:top",
            "drain": "fleet:drain",
            "undrain": "fleet:undrain",
            "remove": "fleet:remove",
            "tokens": "join_tokens:tokens",
        },
    ),
    "artifacts": _Noun(
        help="Files that runs left behind, by digest.",
        verbs={
            "get": "artifacts:get_artifact",
            "fetch": "artifacts:fetch_artifact",
        },
    ),
    "catalog": _Noun(
        help="What the fleet can train and serve with.",
        verbs={
            "backends": "catalog:backends",
            "families": "catalog:families",
            "formats": "catalog:formats",
            "matrix": "catalog:matrix",
        },
    ),
    "data": _Noun(
        help="Files of rows, before they are sent (datasets check).",
        verbs={
            "check": "datasets:check",
        },
    ),
    "recipes": _Noun(
        help="Tested job files to start from.",
        verbs={
            "list": "recipes:list_recipes",
            "show": "recipes:show",
            "use": "recipes:use",
        },
    ),
    "tokens": _Noun(
        help="Who may call this fleet.",
        verbs={
            "list": "tokens:list_tokens",
            "create": "tokens:create_token",
            "revoke": "tokens:revoke_token",
        },
    ),
    "plugins": _Noun(
        help="Backends and model families.",
        verbs={
            "list": "plugins:list_plugins",
            "install": "plugins:install_plugin",
            "remove": "plugins:remove_plugin",
            "new": "plugin_making:new_plugin",
            "check": "plugin_making:check_plugin",
        },
    ),
}

SHORTCUTS: Mapping[str, tuple[str, str]] = {
    "up": ("up:up", "Start a whole fleet on this machine."),
    "trainer": ("services:trainer", "Run a trainer of a fleet on another machine."),
    "server": ("services:server", "Run a server of a fleet on another machine."),
    "gateway": ("services:gateway", "Run a gateway of a fleet on another machine."),
    "login": ("login:login", "Use the fleet of another machine from here."),
    "logout": ("login:logout", "Forget the fleet of another machine."),
    "train": ("train:train", "Submit a job file (jobs create)."),
    "plan": ("plan:plan", "Show what a job file would do (jobs plan)."),
    "deploy": ("deploy:deploy", "Serve a model (deployments create)."),
    "export": ("export:export", "Write a model as whole weights or in a format (models export)."),
    "chat": ("chat:chat", "Talk to a served model."),
    "eval": ("evaluate:evaluate", "Score a model on rows with known answers."),
    "prune": ("artifacts:prune", "Remove what nothing needs any more."),
    "doctor": ("doctor:doctor", "Check the installation and say what to fix."),
    "completion": ("completion:completion", "Print a script that completes commands in a shell."),
    "version": ("version:version", "Show versions."),
}

_OTHER_WORDS = {"show": "get", "describe": "get", "ls": "list", "rm": "delete"}
"""What people type from habit; understood, never shown."""


def _load(target: str) -> click.Command:
    module, attribute = target.split(":")
    command: object = getattr(importlib.import_module(f"tunefleet_cli.commands.{module}"), attribute)
    assert isinstance(command, click.Command)
    return command


_Resolved = tuple[str | None, click.Command | None, list[str]]


def _resolved(
    resolve: Callable[[click.Context, list[str]], _Resolved],
    group: click.Group,
    ctx: click.Context,
    args: list[str],
) -> _Resolved:
    """Resolve a command; of a word that is none, say which one is near."""
    try:
        return resolve(ctx, args)
    except click.UsageError as error:
        import difflib  # of use only here; help and commands start without it

        near = difflib.get_close_matches(args[0], group.list_commands(ctx), n=1)
        if near and not args[0].startswith("-"):
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from None
        raise


class NounGroup(click.Group):
    """The verbs of one noun, imported when they are called."""

    def __init__(self, noun: str) -> None:
        super().__init__(name=noun, help=NOUNS[noun].help)
        self._verbs = NOUNS[noun].verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        other = _OTHER_WORDS.get(cmd_name, cmd_name)
        target = self._verbs.get(cmd_name) or self._verbs.get(other)
        return _load(target) if target else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> _Resolved:
        _, command, rest = _resolved(super().resolve_command, self, ctx, args)
        shown = next((verb for verb in (args[0], _OTHER_WORDS.get(args[0], "")) if verb in self._verbs), None)
        return shown, command, rest


class RootGroup(click.Group):
    """Nouns and short cuts."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*NOUNS, *SHORTCUTS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in NOUNS:
            return NounGroup(cmd_name)
        return _load(SHORTCUTS[cmd_name][0]) if cmd_name in SHORTCUTS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> _Resolved:
        return _resolved(super().resolve_command, self, ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The base class would import every command to ask for its help.
        with formatter.section("Nouns"):
            formatter.write_dl([(name, noun.help) for name, noun in NOUNS.items()])
        with formatter.section("Short cuts"):
            formatter.write_dl([(name, text) for name, (_, text) in SHORTCUTS.items()])
