"""MLX: affine groups of 64 weights with a 16-bit scale and bias each, as mlx-lm converts them."""

from __future__ import annotations

from collections.abc import Mapping

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, PackedWeight, Recognised, Variant
from tunefleet_formats.reading import count, modules, recognised, section, table, word

__all__ = ["MLX"]

_GROUP = 64
_WORD_BITS = 32
_SCALE_AND_BIAS = 16 + 16


def _affine(bits: int) -> float:
    return bits + _SCALE_AND_BIAS / _GROUP


_VARIANTS = tuple(
    Variant(name=f"{bits}bit", bits_per_weight=_affine(bits), group_size=_GROUP)
    for bits in (4, 8, 6, 5, 3, 2)
)


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    config = table(checkpoint.config)
    quantization = section(config, "quantization")
    bits, group = count(quantization, "bits"), count(quantization, "group_size", _GROUP)
    if not 1 <= bits <= _WORD_BITS or word(section(config, "quantization_config"), "quant_method"):
        return None
    is_affine = word(quantization, "mode") in ("", "affine")
    return recognised(
        checkpoint,
        _weights(checkpoint, quantization, bits),
        nominal=bits + (_SCALE_AND_BIAS if is_affine else 8) / group,
        carrier="mlx",
        variant=next((item.name for item in _VARIANTS if is_affine and item.name == f"{bits}bit"), ""),
    )


def _weights(
    checkpoint: Checkpoint, quantization: Mapping[str, object], bits: int
) -> dict[str, PackedWeight]:
    found: dict[str, PackedWeight] = {}
    for module in modules(checkpoint, ".weight", dtypes=("U32",)):
        if f"{module}.scales" not in checkpoint.tensors:
            continue
        own = min(count(section(quantization, module), "bits", bits), _WORD_BITS)
        _, stored = checkpoint.tensors[f"{module}.weight"]
        # Embeddings are quantised as well; experts are stacked in front.
        whole = (*stored[:-1], stored[-1] * _WORD_BITS // own) if stored else ()
        parts = tuple(f"{module}{part}" for part in (".weight", ".scales", ".biases"))
        found[f"{module}.weight"] = PackedWeight(
            shape=whole, parts=tuple(name for name in parts if name in checkpoint.tensors)
        )
    return found


MLX = Format(
    name="mlx",
    summary="Affine groups of 64 on Apple machines (mlx-lm); four or eight bits.",
    variants=_VARIANTS,
    recognise=_recognise,
    engines={
        "mlx": EngineSupport(
            device_kinds=("cpu", "metal"),
            source="mlx-lm 0.32.2: utils.load_model reads `quantization` of config.json",
        ),
    },
    made_by="Made by an export, without calibration: export: {quantize: {format: mlx, variant: 4bit}}.",
    source="mlx 0.32.4: mx.quantize, mode affine",
    traps=(
        "The embedding and the head are quantised as well, unlike in most formats.",
        "transformers and the CUDA engines do not read it; SGLang's mlx_q4 quantises while loading instead.",
    ),
)
