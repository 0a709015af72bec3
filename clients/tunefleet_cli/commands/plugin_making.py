"""`tunefleet plugins new` and `check`: what a plugin's author needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tunefleet_cli.invocation import Invocation, command_options

if TYPE_CHECKING:
    from tunefleet_cli.output import Output
    from tunefleet_core.plugins.conformance_report import Report

__all__ = ["check_plugin", "new_plugin"]


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["train", "serve"]), default="train", help="What it does.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write it. Default: ./NAME")
@command_options
def new_plugin(
    invocation: Invocation, name: str, kind: Literal["train", "serve"], folder: Path | None
) -> None:
    """Write a backend to start from.

    It installs, works and passes the conformance kit as it stands.
    """
    from tunefleet_core.plugins.starter import write_starter

    target = folder or Path(name)
    written = write_starter(name, target, kind)
    output = invocation.output()
    if output.is_json:
        files = [str(path) for path in written]
        output.document("tunefleet.PluginWritten", {"plugin": name, "folder": str(target), "files": files})
        return
    for path in written:
        output.line(str(path))
    output.done(
        f"{name} is written: {len(written)} files.", next_step=f"tunefleet plugins install {_path(target)}"
    )


@click.command()
@click.argument("plugin", metavar="[NAME|PATH]", required=False)
@click.option("--endpoint", metavar="unix:PATH", help="A backend that runs already, in any language.")
@click.option("--name", metavar="BACKEND", help="With --endpoint: its name. Default: as it says.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write a JUnit report.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write conformance.json.")
@click.option("--badge", is_flag=True, help="Print a line for a README.")
@click.option("--only", metavar="WORDS", default="", help="Tests whose names fit, as after pytest's -k.")
@command_options
def check_plugin(
    invocation: Invocation,
    plugin: str | None,
    endpoint: str | None,
    name: str | None,
    junit: Path | None,
    report: Path | None,
    badge: bool,
    only: str,
) -> None:
    """Hold a backend to the contract with the conformance kit.

    Of a source folder the report is kept in the package, where plugins list finds it.
    """
    if (plugin is None) == (endpoint is None):
        raise click.UsageError("Name a plugin, or give --endpoint.")
    _require_pytest()
    output = invocation.output()
    examined = [
        _examine(output, profile, suite, {"junit": junit, "only": only})
        for profile, suite in _profiles(invocation, plugin, endpoint, name)
    ]
    target = report or (None if only else _report_in_package(plugin))
    for outcome in examined:
        _show(output, outcome, badge=badge)
        if target is not None:
            target.write_text(outcome.to_json())
            output.note(f"Report: {target}")
    if not all(outcome.is_conformant for outcome in examined):
        raise click.exceptions.Exit(1)


def _require_pytest() -> None:
    from importlib.util import find_spec

    from tunefleet_core.errors import Reason, TunefleetError

    if find_spec("pytest") is None:
        raise TunefleetError(
            Reason.UNAVAILABLE,
            "The conformance kit needs pytest, which is not installed here.",
            hint="pip install 'tunefleet[testing]'",
        )


def _profiles(
    invocation: Invocation, plugin: str | None, endpoint: str | None, name: str | None
) -> list[tuple[dict[str, Any], str]]:
    """Return what to examine: arguments of a profile, and the suite's name."""
    from tunefleet_core.testing.conformance.choice import find_candidates, manifest_at, suite_for

    if endpoint is not None:
        manifest = invocation.run(manifest_at(endpoint))
        return [({"backend": name or manifest.name, "endpoint": endpoint}, suite_for(manifest))]
    found = invocation.run(find_candidates(str(plugin), invocation.state_folder()))
    return [
        (
            {
                "backend": item.manifest.name,
                "python": item.python,
                # The echo engine is the one that answers without a model.
                "reads_base": item.manifest.name != "echo",
            },
            suite_for(item.manifest),
        )
        for item in found
    ]


def _examine(output: Output, profile: dict[str, Any], suite: str, options: dict[str, Any]) -> Report:
    from tunefleet_core.testing.conformance.examination import examine

    done = 0

    def progress(name: str, outcome: str) -> None:
        nonlocal done
        done += 1
        if outcome == "failed" or (output.is_human and outcome == "passed"):
            output.note(f"{done:4}  {outcome:7} {name}")

    return examine(profile, suite=suite, progress=progress, **options)


def _show(output: Output, report: Report, *, badge: bool) -> None:
    if output.is_json:
        output.document("tunefleet.Conformance", report.to_fields())
        return
    for name, reason in sorted(report.failed.items()):
        output.failed(f"{name}: {reason}")
    for reason in sorted(set(report.skipped.values())):
        count = sum(item == reason for item in report.skipped.values())
        output.note(f"skipped {count:3}: {reason}")
    if badge:
        output.line(report.badge())
    if report.is_conformant:
        output.done(f"{report.backend} is conformant: {report.sentence}.", next_step="tunefleet plugins list")
    else:
        output.failed(f"{report.backend} is not conformant: {report.sentence}.")


def _report_in_package(plugin: str | None) -> Path | None:
    """Return where a source tree keeps its report; None for what is no source tree."""
    from tunefleet_core.plugins.conformance_report import REPORT_NAME

    if plugin is None or not (Path(plugin) / "pyproject.toml").is_file():
        return None
    packages = [path.parent for path in Path(plugin).glob("tunefleet_*/__init__.py")]
    return packages[0] / REPORT_NAME if len(packages) == 1 else None


def _path(folder: Path) -> str:
    """Return a folder as an argument that is no plugin's name."""
    return str(folder) if len(folder.parts) > 1 else f"./{folder}"
