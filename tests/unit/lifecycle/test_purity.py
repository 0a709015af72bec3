"""The deciding core stays pure: it reaches for no clock, chance, thread, file or socket."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tunefleet_core.lifecycle

FOLDER = Path(tunefleet_core.lifecycle.__file__).parent
FORBIDDEN = {
    "asyncio", "grpc", "io", "logging", "os", "pathlib", "random", "secrets", "socket", "sqlalchemy",
    "subprocess", "threading", "time", "uuid",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_nothing_impure(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported.isdisjoint(FORBIDDEN)


def test_the_core_loads_no_server_and_no_database() -> None:
    code = (
        "import sys, tunefleet_core.lifecycle\n"
        "print(*sorted({'grpc', 'sqlalchemy', 'asyncio', 'torch'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
