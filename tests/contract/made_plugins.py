"""Plugins made by a test: from the starter, and from the pages of the tutorial."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

__all__ = ["TUTORIAL", "extract", "installed_beside", "scratch_environment"]

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "plugins" / "tutorial.md"
_FILE = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def extract(page: Path, folder: Path) -> list[Path]:
    """Write the files that a page of the documentation shows, and return them."""
    written: list[Path] = []
    for name, content in _FILE.findall(page.read_text()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        written.append(path)
    return written


def installed_beside(source: Path, folder: Path) -> Path:
    """Make a source tree an installed distribution as an editable install does, without an installer."""
    text = (source / "pyproject.toml").read_text()
    name = _value(text, "name")
    point = text.partition("[project.entry-points.tunefleet]")[2].strip().splitlines()[0].replace('"', "")
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[tunefleet]\n{point}\n")
    return folder


def scratch_environment(folder: Path) -> Path:
    """Make an environment that sees the packages of this one, and return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    ours = sysconfig.get_path("purelib")
    Path(site, "beside.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    assert python.exists(), sys.executable
    return python


def _value(text: str, key: str) -> str:
    match = re.search(rf'^{key} = "([^"]+)"', text, re.MULTILINE)
    assert match, key
    return match.group(1)
