"""Record what AutoRound writes: GPTQ and AWQ in their own layouts, and in its own.

python plugins/formats/tests/record_auto_round.py     (in an environment with auto-round)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from recording import record_folder
from tiny_base import build_base

LIBRARIES = ("auto-round", "transformers", "torch")
FORMS = {
    "gptq": ("auto_gptq", "W4A16"),
    "gptq-8bit": ("auto_gptq", "W8A16"),
    "awq": ("auto_awq", "W4A16"),
    "own-gptq": ("auto_round", "W4A16"),
    "own-mxfp4": ("auto_round", "MXFP4"),
    "own-nvfp4": ("auto_round", "NVFP4"),
}


def quantise(base: Path, place: Path, layout: str, scheme: str) -> Path:
    """Round a base without tuning and save it in a layout; returns the folder that it chose."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [torch.randint(2, 320, (32,)) for _ in range(4)]
    rounding = AutoRound(
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
        scheme=scheme,
        iters=0 if layout == "auto_round" else 1,
        nsamples=len(rows),
        seqlen=32,
        batch_size=1,
        dataset=torch.utils.data.DataLoader(rows, batch_size=1),
        device_map="cpu",
        low_gpu_mem_usage=False,
    )
    rounding.quantize_and_save(str(place), format=layout)
    return next(place.rglob("config.json")).parent


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        base = build_base(Path(place) / "base")
        for name, (layout, scheme) in FORMS.items():
            folder = quantise(base, Path(place) / name, layout, scheme)
            made_by = f"{layout}, {scheme}"
            print(record_folder(f"auto-round-{name}", folder, made_by=made_by, libraries=LIBRARIES))
