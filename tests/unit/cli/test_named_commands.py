"""Commands that hints, docs and examples name are commands that there are, and a slip finds the right one."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from cli_process import run

from tunefleet_cli.main import cli
from tunefleet_cli.tree import NOUNS

ROOT = Path(__file__).parents[3]
PLACES = ("README.md", "docs", "examples", "proto/tunefleet", "core", "clients", "services", "plugins")
NAMED = re.compile(rf"tunefleet ({'|'.join(NOUNS)}) ([a-z][a-z-]+)")
# Sentences, not commands.
PROSE = {("plugins", "is"), ("fleet", "is")}


def named_in(file: Path) -> set[tuple[str, str]]:
    return set(NAMED.findall(file.read_text(encoding="utf-8")))


def test_every_command_that_is_named_exists() -> None:
    files = [
        file
        for place in PLACES
        for file in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
        if file.suffix in {".py", ".md", ".proto", ".yaml"} and "adr" not in file.parts
    ]
    root = click.Context(cli, info_name="tunefleet")
    wrong: list[str] = []
    checked = 0
    for file in files:
        for noun, verb in sorted(named_in(file) - PROSE):
            group = cli.get_command(root, noun)
            assert isinstance(group, click.Group)
            checked += 1
            if verb not in group.list_commands(root):
                wrong.append(f"{file.relative_to(ROOT)}: tunefleet {noun} {verb}")
    assert not wrong
    assert checked > 100, "the search finds them"


@pytest.mark.parametrize(
    ("words", "near"), [(("jobs", "pauze"), "pause"), (("trian",), "train"), (("job", "list"), "jobs")]
)
async def test_a_slip_in_a_command_is_told_the_one_that_is_near(words: tuple[str, ...], near: str) -> None:
    done = await run(*words)
    assert done.code == 2
    assert f"Did you mean '{near}'?" in done.stderr
