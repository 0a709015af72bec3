"""AWQ: four-bit groups, scaled so that the weights which matter for real inputs keep precision."""

from __future__ import annotations

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, Recognised, Variant
from tunefleet_formats.carrier import auto_round_packing
from tunefleet_formats.qweight import group_bits, packed_in_words
from tunefleet_formats.reading import count, quantization_config, recognised, word

__all__ = ["AWQ"]

_GROUP = 128


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    config = quantization_config(checkpoint)
    packing = auto_round_packing(config)
    if word(config, "quant_method") != "awq" and packing != "awq":
        return None
    bits = min(count(config, "bits", 4), 32)
    return recognised(
        checkpoint,
        packed_in_words(checkpoint, bits=bits, along_inputs=False),
        nominal=group_bits(bits, count(config, "group_size", _GROUP)),
        carrier="auto-round" if packing else "awq",
    )


AWQ = Format(
    name="awq",
    summary="Four-bit groups of 128, scaled by what real inputs look like; the widest served 4-bit format.",
    variants=(Variant(name="", bits_per_weight=group_bits(4, _GROUP), group_size=_GROUP),),
    recognise=_recognise,
    engines={
        "vllm": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="7.5",
            source="vLLM 0.32.0: layers/quantization/auto_awq.py; docs/features/quantization/README.md",
        ),
        "sglang": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="7.5",
            source="SGLang 0.5.23: srt/layers/quantization/awq/awq.py (AWQConfig, AWQCPUConfig)",
        ),
    },
    made_by="Made by an export with calibration rows: export: {quantize: {format: awq}}.",
    needs_calibration=True,
    source="Lin et al. 2023, AWQ, arXiv:2306.00978",
    traps=(
        "transformers 5.23 loads it through gptqmodel only, which needs torch 2.14 or newer: the embedded "
        "engine does not serve it.",
        "An AWQ that llmcompressor wrote lies in compressed-tensors, whose config does not say how the "
        "numbers were rounded: its checkpoint is recognised as compressed-tensors.",
    ),
)
