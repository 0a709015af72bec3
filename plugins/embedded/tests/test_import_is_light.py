"""The plugin can be discovered without paying for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, tunefleet_embedded, tunefleet_embedded.engine;"
        "print([m for m in ('torch', 'transformers', 'peft', 'aiohttp') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert out.stdout.strip() == "[]"
