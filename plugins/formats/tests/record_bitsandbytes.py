"""Record what bitsandbytes writes: nf4 and fp4 in both variants, int8.

python plugins/formats/tests/record_bitsandbytes.py     (in an environment with bitsandbytes)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from recording import record_folder
from tiny_base import build_base

LIBRARIES = ("bitsandbytes", "transformers", "torch")
FORMS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4-single": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}


def quantise(base: Path, folder: Path, form: dict[str, object]) -> Path:
    """Load a base quantised and save it so."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=BitsAndBytesConfig(**form), device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        base = build_base(Path(place) / "base")
        for name, form in FORMS.items():
            folder = quantise(base, Path(place) / name, form)
            print(record_folder(f"bitsandbytes-{name}", folder, made_by=repr(form), libraries=LIBRARIES))
