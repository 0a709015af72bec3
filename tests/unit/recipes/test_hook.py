"""A third party's recipes stand among the others, or the plugin says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunefleet_cli.main import cli
from tunefleet_core.plugins import PluginStatus, load_plugins

PLUGIN = """
from pathlib import Path
from tunefleet_core.plugins import hookimpl
from tunefleet_core.recipes import read_recipe

@hookimpl
def tunefleet_recipes():
    return [read_recipe(folder) for folder in sorted((Path(__file__).parent / "theirs").iterdir())]
"""
ABOUT = """
title = "Write haiku"
summary = "Three lines."
method = "sft"
base = "org/tiny"
rows = "50"
planned = {count = 100, tokens = 128}
jobs = ["job.yaml"]
"""
JOB = "name: haiku\ntrain:\n  base: {model: org/tiny}\n  data: {train: [{source: rows.jsonl}]}\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution that brings one recipe."""
    (tmp_path / "plugin_of_theirs.py").write_text(PLUGIN)
    info = tmp_path / "theirs-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[tunefleet]\ntheirs = plugin_of_theirs\n")
    recipe(tmp_path, "haiku")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TUNEFLEET_PLUGINS", "theirs")
    monkeypatch.delitem(sys.modules, "plugin_of_theirs", raising=False)
    return tmp_path


def recipe(site: Path, name: str) -> None:
    folder = site / "theirs" / name
    folder.mkdir(parents=True)
    for file, text in {"recipe.toml": ABOUT, "page.md": "# Write haiku\n", "job.yaml": JOB}.items():
        (folder / file).write_text(text)


def test_a_plugins_recipe_is_listed_shown_and_used(site: Path) -> None:
    (record,) = [item for item in load_plugins().records if item.name == "theirs"]
    assert (record.status, record.recipes) == (PluginStatus.ACTIVE, ("haiku",))
    listed = CliRunner().invoke(cli, ["recipes", "list"])
    assert {line.split()[0] for line in listed.stdout.splitlines()} >= {"haiku", "style"}
    assert "# Write haiku" in CliRunner().invoke(cli, ["recipes", "show", "haiku"]).stdout
    used = CliRunner().invoke(cli, ["recipes", "use", "haiku", "--folder", str(site / "mine")])
    assert (used.exit_code, (site / "mine" / "job.yaml").read_text()) == (0, JOB)
    assert f"tunefleet plan {site / 'mine' / 'job.yaml'}" in used.stderr
    again = CliRunner().invoke(cli, ["recipes", "use", "haiku", "--folder", str(site / "mine")])
    assert again.exit_code != 0
    assert "nothing of it is overwritten" in again.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [("style", "brings the recipe 'style', which tunefleet"), ("Haiku", "is not named by a lower-case slug")],
)
def test_a_recipe_that_cannot_be_had_is_said_by_plugin(name: str, said: str, site: Path) -> None:
    recipe(site, name)
    (record,) = [item for item in load_plugins().records if item.name == "theirs"]
    assert record.status is PluginStatus.FAILED
    assert said in record.error
