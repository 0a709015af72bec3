"""Keep the decisions of a run in its checkpoints: one small JSON file, and the best weights beside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tunefleet_core.artifacts.writing import write_whole_folder

__all__ = ["BEST_FOLDER", "keep_decisions", "kept_decisions", "link_folder"]

_FILE = "decisions.json"
BEST_FOLDER = "kept/best"
"""Folder of the best weights, below a run's work folder and below each checkpoint. Two deep, for libraries
take every folder of a checkpoint that holds an adapter for one more adapter of the model."""


def keep_decisions(folder: Path, decisions: Mapping[str, object]) -> None:
    """Write what was decided so far into a checkpoint's folder; nothing if there is nothing."""
    if decisions:
        (folder / _FILE).write_text(json.dumps(decisions, sort_keys=True) + "\n", encoding="utf-8")


def kept_decisions(folder: Path) -> Mapping[str, Mapping[str, object]]:
    """Return what a checkpoint keeps; empty if it is of a run that decided nothing."""
    try:
        read: object = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return cast("dict[str, dict[str, object]]", read) if isinstance(read, dict) else {}


def link_folder(source: Path, target: Path) -> None:
    """Make `target` hold the files of `source`, as further names of the same bytes where the disk can.

    Nobody writes into such files again, so sharing them is safe, costs no space, and the
    artifact store knows them by their digest already.
    """
    with write_whole_folder(target) as folder:
        for path in sorted(source.iterdir()):
            try:
                os.link(path, folder / path.name)
            except OSError:  # another disk, or one without links
                shutil.copyfile(path, folder / path.name)
