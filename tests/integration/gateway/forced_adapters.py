"""Write a tiny base and adapters of which the k-th answers letter k, whatever it is asked.

    python forced_adapters.py FOLDER COUNT        (with the embedded engine's own interpreter)

Made by hand, as training would be slow and inexact: channel 0 of every token's embedding is large, so
that it is positive behind each norm; the first head's values repeat it; and the k-th adapter writes, at
the output of the last attention, from that channel the row of the head of letter k. Prints one
JSON list: the text that each adapter answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "plugins" / "embedded" / "tests"))

from tiny_models import make_base

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    base = make_base(folder / "base", "llama", hidden=32, layers=1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    last = model.model.layers[-1].self_attn
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 4.0
        last.v_proj.weight[0] = 0.0
        last.v_proj.weight[0, 0] = 1.0
        model.lm_head.weight[:, 0] = 0.0  # the channel decides nothing by itself
    model.save_pretrained(base)
    rows = model.lm_head.weight.detach().clone()
    tuned = get_peft_model(model, LoraConfig(r=1, lora_alpha=1, target_modules=["o_proj"]))
    layer = tuned.base_model.model.model.layers[-1].self_attn.o_proj
    tokenizer = AutoTokenizer.from_pretrained(base)
    for at, letter in enumerate(_LETTERS[:count]):
        (token,) = tokenizer.encode(letter)
        with torch.no_grad():
            layer.lora_A["default"].weight.zero_()
            layer.lora_A["default"].weight[0, 0] = 1.0
            layer.lora_B["default"].weight[:, 0] = 1000.0 * rows[token] / rows[token].norm()
        tuned.save_pretrained(folder / f"adapter-{at}")
    print(json.dumps(list(_LETTERS[:count])))


if __name__ == "__main__":
    main()
