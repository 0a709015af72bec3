"""Record what llmcompressor writes in compressed-tensors: integers, FP8, MXFP4, NVFP4.

python plugins/formats/tests/record_llmcompressor.py     (in an environment with llmcompressor)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from recording import record_folder
from tiny_base import build_base

LIBRARIES = ("llmcompressor", "compressed-tensors", "transformers", "torch")
SCHEMES = {
    "w4a16": "W4A16",
    "w4a16-asym": "W4A16_ASYM",
    "w8a16": "W8A16",
    "w8a8": "W8A8",
    "fp8-channel": "FP8_DYNAMIC",
    "fp8-block": "FP8_BLOCK",
    "fp8-tensor": "FP8",
    "mxfp4": "MXFP4",
    "nvfp4": "NVFP4",
    "nvfp4-weights": "NVFP4A16",
}
CALIBRATED = ("w8a8", "fp8-tensor", "nvfp4")


def quantise(base: Path, folder: Path, name: str) -> Path:
    """Run one scheme over a base and save it; what is calibrated gets rows of noise."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    recipe = QuantizationModifier(targets="Linear", scheme=SCHEMES[name], ignore=["lm_head"])
    rows = [{"input_ids": torch.randint(0, 320, (32,)).tolist(), "attention_mask": [1] * 32}] * 4
    data = (
        {"dataset": Dataset.from_list(rows), "num_calibration_samples": 4, "max_seq_length": 32}
        if name in CALIBRATED
        else {}
    )
    oneshot(model=model, recipe=recipe, **data)
    model.save_pretrained(folder, save_compressed=True)
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        base = build_base(Path(place) / "base")
        for name, scheme in SCHEMES.items():
            folder = quantise(base, Path(place) / name, name)
            print(record_folder(f"llmcompressor-{name}", folder, made_by=scheme, libraries=LIBRARIES))
