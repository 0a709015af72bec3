"""Read the facts of a Hub model before its weights are here.

A plan must not wait for a download of hours: the small files are fetched, of each
weight file only the header, by a range request. Small models are fetched whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url, snapshot_download  # pyright: ignore[reportUnknownVariableType]  # a bare dict in its own types
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # pyright: ignore[reportUnknownVariableType]  # as above

from tunefleet_core.artifacts.writing import write_whole_file
from tunefleet_core.catalog.hub_cache import hub_cache
from tunefleet_core.catalog.hub_errors import hub_refusal, is_hub_failure
from tunefleet_core.catalog.refusal import base_invalid
from tunefleet_core.catalog.weights import (
    FULL_HASH_BYTES,
    INDEX_NAME,
    SINGLE_NAME,
    WeightFile,
    header_length,
    no_weights,
    shard_names,
    weight_file,
)
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["RemoteBase", "read_remote", "require_space", "weight_names"]

_SMALL_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
_MAX_SMALL_BYTES = 256 * 1024 * 1024
_FIRST_BYTES = 256 * 1024  # holds the header of most files in one request
_ANSWER_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBase:
    """A Hub model of which the small files are here, and of its weights what their headers say."""

    folder: Path
    commit: str
    files: tuple[WeightFile, ...]


def read_remote(model: str, revision: str = "") -> RemoteBase:
    """Fetch what a plan needs of a Hub model.

    Raises:
        TunefleetError: HUB_UNREACHABLE, HUB_ACCESS_DENIED, BASE_INVALID, or DISK_FULL if the
            weights would not fit where this host keeps Hub models.
    """
    try:
        return _read_remote(model, revision)
    except TunefleetError:
        raise
    except Exception as error:
        if is_hub_failure(error):
            raise hub_refusal(error, model, revision) from error
        raise


def _read_remote(model: str, revision: str) -> RemoteBase:
    info = HfApi().model_info(model, revision=revision or None, files_metadata=True, timeout=_ANSWER_SECONDS)
    commit = info.sha
    if not commit:
        raise base_invalid(f"The Hub does not tell a commit of '{model}'.", hint="Try again later.")
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or ()}
    _fetch_small(model, commit, sizes)
    root = hub_cache() / f"models--{model.replace('/', '--')}"
    if commit != revision:
        # So that the name is known later, without the Hub; the library does this only for a branch
        # that it looks up itself, a moment later, when it may have moved.
        name = root / "refs" / (revision or "main")
        name.parent.mkdir(parents=True, exist_ok=True)
        write_whole_file(name, commit.encode())
    folder = root / "snapshots" / commit
    names = weight_names(model, folder, sizes)
    total = sum(sizes[name] for name in names)
    require_space(model, total)
    if total <= FULL_HASH_BYTES:
        snapshot_download(model, revision=commit, allow_patterns=list(names))
    files = tuple(_header(model, commit, folder / name, sizes[name]) for name in sorted(names))
    return RemoteBase(folder=folder, commit=commit, files=files)


def require_space(model: str, needed_bytes: int) -> None:
    """Refuse a download that would not fit.

    Raises:
        TunefleetError: DISK_FULL with both figures.
    """
    cache = hub_cache()
    place = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed_bytes > free:
        raise TunefleetError(
            Reason.DISK_FULL,
            f"The weights of '{model}' are {_shown(needed_bytes)}, and {cache} has {_shown(free)} free.",
            hint="Free space there, or start the trainer with HF_HOME on a larger disk.",
            metadata={
                "model": model,
                "path": str(cache),
                "needed_bytes": str(needed_bytes),
                "free_bytes": str(free),
            },
        )


def _fetch_small(model: str, commit: str, sizes: Mapping[str, int]) -> None:
    small = [name for name in sizes if name.endswith(_SMALL_SUFFIXES) and "/" not in name]
    if sum(sizes[name] for name in small) > _MAX_SMALL_BYTES:
        raise base_invalid(
            f"The config and tokenizer files of '{model}' are larger than {_shown(_MAX_SMALL_BYTES)}.",
            hint="Download it yourself and give its folder, if you trust it.",
        )
    if "config.json" not in small:
        raise base_invalid(
            f"'{model}' has no config.json on the Hub, so it is no base model.",
            hint="Name a model repository; an adapter or a GGUF file alone is not a base.",
        )
    snapshot_download(model, revision=commit, allow_patterns=small)


def weight_names(model: str, folder: Path, sizes: Mapping[str, int]) -> frozenset[str]:
    """Return the weight files of a model among those the Hub has; the index is in `folder` already.

    Raises:
        TunefleetError: BASE_INVALID if there are none, or the index names one the Hub lacks.
    """
    if SINGLE_NAME in sizes:
        return frozenset((SINGLE_NAME,))
    if INDEX_NAME not in sizes:
        raise no_weights(model, list(sizes))
    names = frozenset(shard_names(folder / INDEX_NAME).values())
    absent = sorted(names - sizes.keys())
    if absent:
        raise base_invalid(
            f"The index of '{model}' names '{absent[0]}', which the Hub does not have.",
            hint="Tell the model's owner, or take another revision.",
        )
    return names


def _header(model: str, commit: str, path: Path, size_bytes: int) -> WeightFile:
    """Return a weight file from its first bytes, wherever they are."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(8)
            return weight_file(path, file.read(header_length(path, start, size_bytes)), size_bytes)
    url = hf_hub_url(model, path.name, revision=commit)
    start = _range(url, 0, min(_FIRST_BYTES, size_bytes))
    length = header_length(path, start[:8], size_bytes)
    if 8 + length > len(start):
        start += _range(url, len(start), 8 + length)
    return weight_file(path, start[8 : 8 + length], size_bytes)


def _range(url: str, first: int, end: int) -> bytes:
    """Return the bytes of a file of the Hub from `first` up to, not including, `end`."""
    headers = {**build_hf_headers(), "Range": f"bytes={first}-{end - 1}", "Accept-Encoding": "identity"}
    wanted = end - first
    received = bytearray()
    with get_session().stream(
        "GET", url, headers=headers, timeout=_ANSWER_SECONDS, follow_redirects=True
    ) as answer:
        hf_raise_for_status(answer)
        for piece in answer.iter_bytes():
            received += piece
            if len(received) >= wanted:  # a server that knows no ranges would send it all
                break
    return bytes(received[:wanted])


def _shown(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 100_000_000 else f"{size_bytes / 1e6:.1f} MB"
