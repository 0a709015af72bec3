"""Read what safetensors files say about themselves, without loading a weight.

Layout: an 8-byte little-endian header length, a JSON header, then the raw tensors
without holes (https://github.com/huggingface/safetensors#format). Pickle files are
never opened: they run code when they are read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tunefleet.model.v1.base_pb2 import TensorFact
from tunefleet_core.catalog.refusal import base_invalid, parse_object, read_object
from tunefleet_core.errors import TunefleetError

__all__ = [
    "FULL_HASH_BYTES",
    "INDEX_NAME",
    "NUMBER_BITS",
    "SINGLE_NAME",
    "WeightFile",
    "base_digest",
    "header_length",
    "no_weights",
    "read_weights",
    "shard_names",
    "weight_file",
]

FULL_HASH_BYTES = 64 * 1024 * 1024
"""Weights up to this size in all are hashed whole; larger ones by header and size only."""

SINGLE_NAME = "model.safetensors"
"""Weights in one file."""

INDEX_NAME = "model.safetensors.index.json"
"""Which shard holds which tensor."""

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_MAX_HEADER_BYTES = 100_000_000  # the bound of the format's own reader
_AGAIN = "Download or save the model again; the file is damaged."
NUMBER_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of one number by its type, as safetensors names types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One safetensors file: its header as bytes, its size in bytes, its tensors."""

    path: Path
    header: bytes
    size_bytes: int
    tensors: tuple[TensorFact, ...]

    @property
    def weights_bytes(self) -> int:
        """Bytes of the tensors alone."""
        return self.size_bytes - 8 - len(self.header)


def read_weights(folder: Path) -> tuple[WeightFile, ...]:
    """Return the weight files of a model folder, sorted by name.

    Raises:
        TunefleetError: BASE_INVALID if there are none, one is damaged, or the index
            names a file outside the folder.
    """
    if (folder / SINGLE_NAME).is_file():
        return (_read_file(folder / SINGLE_NAME),)
    if (folder / INDEX_NAME).is_file():
        return _read_shards(folder)
    raise no_weights(folder, [path.name for path in folder.iterdir()])


def no_weights(folder: Path | str, names: Sequence[str]) -> TunefleetError:
    """Return the refusal of a model without safetensors; `names` are the files it has."""
    pickles = sorted(name for name in names if name.endswith(_PICKLE_SUFFIXES))
    if pickles:
        return base_invalid(
            f"'{folder}' holds its weights only as pickle ({pickles[0]}), which can run code when read.",
            hint="Take a revision with safetensors, or save it again with a new transformers.",
            path=folder,
        )
    return base_invalid(
        f"'{folder}' has no weights: neither {SINGLE_NAME} nor {INDEX_NAME}.",
        hint="Name a folder that was written by save_pretrained or downloaded whole: hf download ID",
        path=folder,
    )


def base_digest(config: bytes, files: Sequence[WeightFile]) -> str:
    """Return the digest by which a base is known, 64 hex digits.

    SHA-256 over config.json and, per weight file, its name, size and header. Up to
    FULL_HASH_BYTES of weights in all it covers their content too; above that it would
    take seconds per plan, so two fine-tunes of one large base with equal shapes and
    config have the same digest.
    """
    digest = hashlib.sha256()
    digest.update(len(config).to_bytes(8, "little") + config)
    is_small = sum(file.size_bytes for file in files) <= FULL_HASH_BYTES
    for file in files:
        name = file.path.name.encode()
        digest.update(len(name).to_bytes(8, "little") + name)
        digest.update(file.size_bytes.to_bytes(8, "little"))
        digest.update(len(file.header).to_bytes(8, "little") + file.header)
        if is_small:
            with file.path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def shard_names(index: Path) -> dict[str, str]:
    """Return what an index says: tensor name to the file beside it that holds the tensor.

    Raises:
        TunefleetError: BASE_INVALID if it is damaged or names a file outside its folder.
    """
    entries = read_object(index, limit_bytes=_MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise base_invalid(f"'{index}' has no 'weight_map'.", hint=_AGAIN, path=index)
    shards: dict[str, str] = {}
    for tensor, name in cast("dict[str, object]", entries).items():
        # A shard lies beside its index; anything else would read files of the host.
        if not isinstance(name, str) or name != Path(name).name or name in {"", ".", ".."} or "\\" in name:
            raise base_invalid(
                f"'{index}' names the shard {name!r}, which is not a file of its own folder.",
                hint="Do not use this model: its index points outside its folder.",
                path=index,
            )
        shards[tensor] = name
    return shards


def _read_shards(folder: Path) -> tuple[WeightFile, ...]:
    index = folder / INDEX_NAME
    weight_map = shard_names(index)
    files = tuple(_read_file(folder / name) for name in sorted(set(weight_map.values())))
    found = {(tensor.name, file.path.name) for file in files for tensor in file.tensors}
    missing = sorted(name for name, shard in weight_map.items() if (name, shard) not in found)
    if missing:
        raise base_invalid(
            f"'{index}' promises the tensor '{missing[0]}' in '{weight_map[missing[0]]}', which lacks it.",
            hint=_AGAIN,
            path=index,
        )
    return files


def _read_file(path: Path) -> WeightFile:
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            header = file.read(header_length(path, start, size_bytes))
    except OSError as error:
        raise base_invalid(
            f"'{path}' cannot be read: {error.strerror or error}.",
            hint="Download the model again: a shard is missing or may not be read.",
            path=path,
        ) from error
    return weight_file(path, header, size_bytes)


def header_length(path: Path, start: bytes, size_bytes: int) -> int:
    """Return the length of a file's header from its first 8 bytes, if it can be true."""
    length = int.from_bytes(start, "little")
    if size_bytes < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size_bytes - 8):
        raise base_invalid(
            f"'{path}' is no safetensors file or is cut off: its header has no end.",
            hint=_AGAIN,
            path=path,
        )
    return length


def weight_file(path: Path, header: bytes, size_bytes: int) -> WeightFile:
    """Return a file from its header, checked against its size; the file itself may be elsewhere."""
    tensors = _tensors(path, header, data_bytes=size_bytes - 8 - len(header))
    return WeightFile(path=path, header=header, size_bytes=size_bytes, tensors=tensors)


def _tensors(path: Path, header: bytes, *, data_bytes: int) -> tuple[TensorFact, ...]:
    entries = parse_object(header, path)
    entries.pop("__metadata__", None)
    ranges: list[tuple[int, int]] = []
    tensors: list[TensorFact] = []
    for name in sorted(entries):
        tensor, start, end = _tensor(path, name, entries[name])
        tensors.append(tensor)
        ranges.append((start, end))
    position = 0
    for start, end in sorted(ranges):
        if start != position or end < start:
            raise base_invalid(f"The tensors of '{path}' overlap or leave holes.", hint=_AGAIN, path=path)
        position = end
    if position != data_bytes:
        raise base_invalid(
            f"'{path}' holds {data_bytes} bytes of tensors where its header promises {position}.",
            hint=_AGAIN,
            path=path,
        )
    return tuple(tensors)


def _tensor(path: Path, name: str, entry: object) -> tuple[TensorFact, int, int]:
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    dtype, shape, offsets = (
        fields.get("dtype"),
        _counts(fields.get("shape")),
        _counts(fields.get("data_offsets")),
    )
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise base_invalid(f"'{path}' describes the tensor '{name}' wrongly.", hint=_AGAIN, path=path)
    start, end = offsets
    bits, count = NUMBER_BITS.get(dtype), math.prod(shape)
    # A number type newer than the table is believed as long as it has a bit per number.
    is_wrong = count > (end - start) * 8 if bits is None else count * bits != (end - start) * 8
    if is_wrong:
        raise base_invalid(
            f"'{path}' gives the tensor '{name}' {end - start} bytes, which is not {dtype} {shape}.",
            hint=_AGAIN,
            path=path,
        )
    return TensorFact(name=name, shape=shape, dtype=dtype), start, end


def _counts(value: object) -> list[int] | None:
    """Return a list of non-negative 63-bit integers, or None if it is something else."""
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    counts = [item for item in items if isinstance(item, int) and not isinstance(item, bool)]
    return counts if len(counts) == len(items) and all(0 <= item < 2**63 for item in counts) else None
