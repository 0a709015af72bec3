"""A quantised export is served as the library that wrote it computes it.

Every engine takes half a minute to start, so one format is tried here: four bits in groups, which is
how AWQ and GPTQ are both written. All of them: `write_exports.py`, then `load_exports.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from load_exports import loaded

pytestmark = pytest.mark.slow

_WRITER = Path(__file__).with_name("write_exports.py")
_ROOT = Path(__file__).resolve().parents[3]
_SECONDS = 600


def _exporter() -> str:
    """Return the Python of the exporter's environment; empty if there is none."""
    index = Path(os.environ.get("TUNEFLEET_ENVS", _ROOT / ".envs")) / "index.json"
    if not index.exists():
        return ""
    return str(json.loads(index.read_text())["environments"].get("compress", {}).get("python", ""))


def test_what_was_exported_is_what_is_served(tmp_path: Path) -> None:
    python = _exporter()
    if not python:
        pytest.skip(
            "exports are written by compress, which is not installed: tunefleet plugins install compress"
        )
    done = subprocess.run(
        [python, _WRITER, tmp_path, "awq"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    work = tmp_path / "work"
    work.mkdir()
    found = loaded(tmp_path / "awq", work, "bfloat16")
    assert found.get("numbers") == "CONTRACT_STATE_VERIFIED", found
    assert float(str(found["distance"])) < 0.1 < float(str(found["distance_to_base"]))
