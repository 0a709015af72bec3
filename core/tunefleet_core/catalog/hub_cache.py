"""Find a Hub model among what was downloaded to this machine; never the network.

Layout of the cache: `models--<org>--<name>/refs/<revision>` holds a commit,
`snapshots/<commit>/` the files (huggingface_hub, "Understand caching").
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.catalog.refusal import base_invalid
from tunefleet_core.catalog.weights import INDEX_NAME, SINGLE_NAME, shard_names

__all__ = ["Snapshot", "find_snapshot", "has_weights", "hub_cache", "is_hub_id"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A downloaded revision: its folder and its commit."""

    path: Path
    commit: str


def is_hub_id(model: str) -> bool:
    """Return whether a text could be a Hub id, such as `org/name`."""
    return _HUB_ID.fullmatch(model) is not None and ".." not in model and "--" not in model


def find_snapshot(model: str, revision: str = "") -> Snapshot | None:
    """Return the snapshot of a Hub model in this machine's cache, None if it was not downloaded whole.

    Raises:
        TunefleetError: BASE_INVALID for a text that cannot be a revision.
    """
    wanted = revision or "main"
    if not _REVISION.fullmatch(wanted) or ".." in wanted:
        raise base_invalid(
            f"'{revision}' is no Hub revision.", hint="Name a branch, a tag or a commit in base.revision."
        )
    folder = hub_cache() / f"models--{model.replace('/', '--')}"
    commit = wanted if _COMMIT.fullmatch(wanted) else _ref(folder / "refs" / wanted)
    snapshot = folder / "snapshots" / commit
    if not commit or not snapshot.is_dir() or not has_weights(snapshot):
        return None
    return Snapshot(path=snapshot, commit=commit)


def hub_cache() -> Path:
    """Return the folder in which this machine keeps Hub models."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def _ref(path: Path) -> str:
    try:
        commit = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return commit if _COMMIT.fullmatch(commit) else ""


def has_weights(snapshot: Path) -> bool:
    """Return whether a snapshot is more than its small files, which a plan fetches first."""
    if (snapshot / SINGLE_NAME).exists():
        return True
    if not (snapshot / INDEX_NAME).exists():
        # Neither of the two: not ours to fetch; reading it says what is wrong with it.
        return any(path.suffix not in _SMALL_SUFFIXES for path in snapshot.iterdir())
    return all((snapshot / name).exists() for name in shard_names(snapshot / INDEX_NAME).values())
