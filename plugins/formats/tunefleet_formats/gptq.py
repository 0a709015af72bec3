"""GPTQ: four-bit groups, rounded one column after another so that later ones make up for earlier errors."""

from __future__ import annotations

from tunefleet_core.catalog.format import Checkpoint, EngineSupport, Format, Recognised, Variant
from tunefleet_formats.carrier import auto_round_packing
from tunefleet_formats.qweight import group_bits, packed_in_words
from tunefleet_formats.reading import count, quantization_config, recognised, word

__all__ = ["GPTQ"]

_GROUP = 128


def _recognise(checkpoint: Checkpoint) -> Recognised | None:
    config = quantization_config(checkpoint)
    packing = auto_round_packing(config)
    if word(config, "quant_method") != "gptq" and packing != "gptq":
        return None
    bits = min(count(config, "bits", 4), 32)
    return recognised(
        checkpoint,
        packed_in_words(checkpoint, bits=bits, along_inputs=True),
        nominal=group_bits(bits, count(config, "group_size", _GROUP)),
        variant="8bit" if bits == 8 else "4bit" if bits == 4 else "",
        carrier="auto-round" if packing else "gptq",
    )


GPTQ = Format(
    name="gptq",
    summary="Four- or eight-bit groups of 128, each column rounded to make up for the errors before it.",
    variants=(
        Variant(name="4bit", bits_per_weight=group_bits(4, _GROUP), group_size=_GROUP),
        Variant(name="8bit", bits_per_weight=group_bits(8, _GROUP), group_size=_GROUP),
    ),
    recognise=_recognise,
    engines={
        "vllm": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="7.0",
            source="vLLM 0.32.0: layers/quantization/auto_gptq.py; docs/features/quantization/README.md",
        ),
        "sglang": EngineSupport(
            device_kinds=("cpu", "cuda"),
            least_compute_capability="8.0",
            source="SGLang 0.5.23: srt/layers/quantization/gptq/gptq.py (GPTQMarlinConfig, CPUGPTQConfig)",
        ),
    },
    made_by="Made by an export with calibration rows: export: {quantize: {format: gptq}}.",
    needs_calibration=True,
    source="Frantar et al. 2022, GPTQ, arXiv:2210.17323",
    traps=(
        "Files written with g_idx hold 32 bits more per input of every layer; only act-order needs it.",
        "transformers 5.23 loads it through gptqmodel only, which needs torch 2.14 or newer: the embedded "
        "engine does not serve it.",
    ),
)
