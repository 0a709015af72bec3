"""Read what a checkpoint says of its quantisation, whatever nonsense the files hold.

Configs come from anybody: every field is checked for its type here, so that the formats
can ask plain questions and never raise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

from tunefleet_core.catalog.format import Checkpoint, PackedWeight, Recognised
from tunefleet_core.catalog.weights import NUMBER_BITS

__all__ = [
    "count",
    "flag",
    "groups",
    "hidden_size",
    "modules",
    "quantization_config",
    "recognised",
    "section",
    "shape",
    "table",
    "word",
]


def quantization_config(checkpoint: Checkpoint) -> Mapping[str, object]:
    """Return `quantization_config`, of the language model where it has a config of its own."""
    config = table(checkpoint.config)
    found = section(config, "quantization_config") or section(config, "compression_config")
    return found or section(section(config, "text_config"), "quantization_config")


def table(value: object) -> Mapping[str, object]:
    """Return a value if it is a JSON object, else an empty one."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def section(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return the JSON object in a field, or an empty one."""
    return table(fields.get(name))


def word(fields: Mapping[str, object], name: str) -> str:
    """Return a field's text in lower case, or an empty one."""
    value = fields.get(name)
    return value.lower() if isinstance(value, str) else ""


def count(fields: Mapping[str, object], name: str, default: int = 0) -> int:
    """Return a field's positive number, or the default."""
    value = fields.get(name)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
    return cast("int", value) if is_count else default


def flag(fields: Mapping[str, object], name: str) -> bool:
    """Return whether a field says true."""
    return fields.get(name) is True


def groups(quantization: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the schemes of a compressed-tensors config: what layers are quantised how."""
    return [table(value) for value in section(quantization, "config_groups").values() if table(value)]


def hidden_size(checkpoint: Checkpoint) -> int:
    """Return the width of the language model, 0 if the config does not say."""
    config = table(checkpoint.config)
    return count(section(config, "text_config"), "hidden_size") or count(config, "hidden_size")


def modules(checkpoint: Checkpoint, part: str, *, dtypes: tuple[str, ...]) -> Iterator[str]:
    """Yield the modules that have a part of one of these number types, such as `.qweight`."""
    for name, (dtype, _) in checkpoint.tensors.items():
        if name.endswith(part) and dtype in dtypes:
            yield name.removesuffix(part)


def shape(checkpoint: Checkpoint, name: str, rank: int) -> tuple[int, ...]:
    """Return a tensor's shape if it is there and of this rank, else zeros."""
    _, found = checkpoint.tensors.get(name, ("", ()))
    return tuple(found) if len(found) == rank else (0,) * rank


def recognised(
    checkpoint: Checkpoint,
    weights: Mapping[str, PackedWeight],
    *,
    nominal: float,
    carrier: str,
    variant: str = "",
) -> Recognised:
    """Return what was recognised, with the bits per weight of the tensors themselves.

    Args:
        checkpoint: The checkpoint.
        weights: Its quantised weights; those whose shape could not be told are left out.
        nominal: Bits per weight to say if there are none to measure.
        carrier: What carries the format in the files.
        variant: Which form of the format it is.
    """
    known = {name: packed for name, packed in weights.items() if math.prod(packed.shape) > 0}
    number = sum(math.prod(packed.shape) for packed in known.values())
    bits = sum(_bits(checkpoint, part) for packed in known.values() for part in packed.parts)
    measured = bits / number if number and bits else nominal
    return Recognised(variant=variant, carrier=carrier, bits_per_weight=measured, weights=known)


def _bits(checkpoint: Checkpoint, name: str) -> int:
    dtype, found = checkpoint.tensors.get(name, ("", ()))
    return math.prod(found) * NUMBER_BITS.get(dtype, 0)
