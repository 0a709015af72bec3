"""A quantised base as the loaded model has it: whole weights, not what they are packed into.

A packed weight is several tensors of odd types and shapes. Counting their numbers as
parameters, or looking for linear layers among them, would be wrong everywhere; so the facts
of a base name the weights that they stand for, and say beside it how they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from tunefleet.model.v1.base_pb2 import Quantization, TensorFact
from tunefleet_core.catalog.format import Checkpoint, Recognised
from tunefleet_core.catalog.format_registry import FormatRegistry

__all__ = ["quantization_of"]

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_UNKNOWN = ("quantization_config", "compression_config", "quantization")
"""Where a config says that the weights are quantised, whoever did it."""


def quantization_of(
    config: Mapping[str, object],
    tensors: Sequence[TensorFact],
    files: Sequence[str],
    formats: FormatRegistry,
) -> tuple[Quantization | None, list[TensorFact]]:
    """Return how a checkpoint is quantised, and its tensors as the loaded model has them.

    Args:
        config: Its config.json.
        tensors: The tensors of its files.
        files: Names of its files.
        formats: The formats to recognise it by.

    Returns:
        None and the tensors as they are if it is not quantised. A quantisation without name, and
        the tensors as they are, if its config says that it is but no format knows how.

    Raises:
        TunefleetError: BASE_INVALID if two formats claim it.
    """
    stored = {tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in tensors}
    found = formats.recognise(Checkpoint(config=config, tensors=stored, files=files))
    if found is None:
        said = next((item for name in _UNKNOWN if (item := _table(config.get(name)))), None)
        if said is None:
            return None, list(tensors)
        method = said.get("quant_method")
        return Quantization(carrier=method if isinstance(method, str) else "unknown"), list(tensors)
    quantisation, recognised = found
    quantization = Quantization(
        format=quantisation.name,
        variant=recognised.variant,
        carrier=recognised.carrier,
        bits_per_weight=recognised.bits_per_weight,
    )
    return quantization, _unpacked(tensors, recognised, _dtype(config))


def _unpacked(tensors: Sequence[TensorFact], recognised: Recognised, dtype: str) -> list[TensorFact]:
    packed = {part for weight in recognised.weights.values() for part in weight.parts}
    whole = [
        TensorFact(name=name, shape=weight.shape, dtype=dtype) for name, weight in recognised.weights.items()
    ]
    kept = [tensor for tensor in tensors if tensor.name not in packed]
    return sorted([*kept, *whole], key=lambda tensor: tensor.name)


def _dtype(config: Mapping[str, object]) -> str:
    """Return the number type that the weights have once they are unpacked."""
    for source in (config, _table(config.get("text_config"))):
        for name in ("dtype", "torch_dtype"):
            said = source.get(name)
            if isinstance(said, str) and said in _DTYPES:
                return _DTYPES[said]
    return "BF16"


def _table(value: object) -> Mapping[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
