"""The fragments of docs/changes become a changelog: each has a name that says its kind, and is told once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FRAGMENTS = sorted(path for path in (ROOT / "docs" / "changes").iterdir() if path.name != "README.md")
_NAME = re.compile(r"\+[a-z0-9-]+\.(added|changed|fixed|removed|security)\.md")


def test_each_is_named_as_its_readme_says_and_is_short() -> None:
    assert [path.name for path in FRAGMENTS if not _NAME.fullmatch(path.name)] == []
    assert [path.name for path in FRAGMENTS if not path.read_text(encoding="utf-8").strip()] == []


def test_all_of_them_are_in_the_changelog_that_a_release_would_make() -> None:
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = " ".join(done.stdout.split())
    lost = [path.name for path in FRAGMENTS if " ".join(path.read_text("utf-8").split()) not in said]
    assert lost == []
