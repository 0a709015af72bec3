"""Make the bad plugins installed distributions: a folder for PYTHONPATH."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["BAD", "install_bad_plugins"]

_SOURCE = Path(__file__).resolve().parents[1] / "plugin_data" / "bad"

BAD: dict[str, tuple[str, str]] = {
    # name: (status, part of the reason)
    "ancient": ("INCOMPATIBLE", "speaks contract 0"),
    "daemon": ("FAILED", "leaves a process behind"),
    "dies": ("FAILED", "could not be described (exit 7)"),
    "hangs": ("FAILED", "did not return within 10 s"),
    "leaks": ("FAILED", "leaves a process behind"),
    "nameless": ("FAILED", "'No Name!', which is no lower-case slug"),
    "prints": ("FAILED", "prints to standard output while it is loaded: 'Welcome to prints!'"),
    "raises": ("FAILED", "RuntimeError: the licence server of raises does not answer"),
    "rubbish": ("FAILED", "returned a dict, not a BackendManifest"),
}


def install_bad_plugins(folder: Path, *names: str) -> Path:
    """Install some bad plugins, all by default, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or BAD:
        shutil.copy(_SOURCE / f"{name}.py", folder / f"bad_{name}.py")
        info = folder / f"bad_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bad-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tunefleet]\n{name} = bad_{name}\n")
    return folder
