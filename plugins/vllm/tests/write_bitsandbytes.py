"""Write a whole model in a format of bitsandbytes, as transformers saves it: run by trl's Python.

    python write_bitsandbytes.py WHOLE FOLDER [nf4 | fp4 | int8 ...]

Leaves FOLDER/FORMAT for each, with a contract.json that holds the numbers of the saved weights,
as transformers computes them in bfloat16.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the model is tiny, the cores are shared

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tunefleet_core.parity import TOP_TOKENS, TopLogprobs, read_contract, write_contract

_BESIDE = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")


def _config(form: str) -> Any:
    if form == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=form,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _tops(model: Any, prompt: tuple[int, ...]) -> TopLogprobs:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
    top = torch.topk(torch.log_softmax(logits.float(), dim=-1), TOP_TOKENS)
    return TopLogprobs(token_ids=tuple(top.indices.tolist()), logprobs=tuple(top.values.tolist()))


def main() -> None:
    """Round, save, load what was saved, measure it."""
    whole, folder = Path(sys.argv[1]), Path(sys.argv[2])
    contract = read_contract(whole)
    for form in sys.argv[3:] or ("nf4", "fp4", "int8"):
        target = folder / form
        AutoModelForCausalLM.from_pretrained(
            whole, quantization_config=_config(form), dtype=torch.bfloat16
        ).save_pretrained(target)
        # Measured on a copy of its own: the first pass packs four-bit weights anew in place.
        model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16).eval()
        for name in _BESIDE:
            shutil.copy(whole / name, target / name)
        numbers = tuple(replace(item, tuned=_tops(model, item.prompt_token_ids)) for item in contract.numbers)
        write_contract(replace(contract, numbers=numbers), target)
        print(form, flush=True)


if __name__ == "__main__":
    main()
