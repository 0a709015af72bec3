"""The public API has the types it says, and wrong code fails to type-check."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(__file__).with_name("typed")
_EXPECTED = re.compile(r"# expect: (\w+)$")
_ECHOES = {"reportUnusedCoroutine", "reportUnknownVariableType", "reportUnknownArgumentType"}
"""Rules that only follow from the ones that are meant."""


@pytest.fixture(scope="module")
def found() -> set[tuple[str, int, str]]:
    """Everything that the type checker says about both files: name, line from 1, rule."""
    paths = [str(FOLDER / name) for name in ("right.py", "wrong.py")]
    command = [sys.executable, "-m", "pyright", "--outputjson", *paths]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    report = json.loads(result.stdout)
    assert report["summary"]["filesAnalyzed"] == 2, result.stdout
    return {
        (Path(item["file"]).name, item["range"]["start"]["line"] + 1, item.get("rule", item["message"]))
        for item in report["generalDiagnostics"]
    }


def test_right_code_type_checks(found: set[tuple[str, int, str]]) -> None:
    assert {item for item in found if item[0] == "right.py"} == set()


def test_wrong_code_fails_at_each_line_with_its_rule(found: set[tuple[str, int, str]]) -> None:
    lines = (FOLDER / "wrong.py").read_text(encoding="utf-8").splitlines()
    expected = {
        ("wrong.py", number, match[1])
        for number, line in enumerate(lines, start=1)
        if (match := _EXPECTED.search(line))
    }
    assert len(expected) >= 15
    wrong = {item for item in found if item[0] == "wrong.py"}
    echoes = {item for item in wrong if item[2] in _ECHOES}
    assert wrong - echoes == expected
    assert {item[1] for item in echoes} <= {item[1] for item in expected}
