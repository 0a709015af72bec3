"""Ask a saved model questions of every family, drawn with a seed that training never used.

python examples/tiny_base/probe.py examples/tiny_base/model
"""

import random
import sys
from pathlib import Path

import torch
from conversation import Conversation
from corpus import FAMILIES
from transformers import AutoModelForCausalLM, AutoTokenizer


def answers(folder: Path, prompts: list[Conversation], *, max_new_tokens: int = 64) -> list[str]:
    """Continue each conversation greedily with one assistant turn."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = [
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in prompts
    ]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def probe(folder: Path, *, seed: int, count: int = 50) -> dict[str, float]:
    """Return the share of exactly right last answers per family.

    Families that allow several right answers (small talk, other words for a trouble) stay below 1.
    """
    scores: dict[str, float] = {}
    for name, (family, _) in FAMILIES.items():
        rng = random.Random(f"{seed} {name}")
        rows = [family(rng) for _ in range(count)]
        got = answers(folder, [row[:-1] for row in rows])
        right = sum(answer == row[-1]["content"] for answer, row in zip(got, rows, strict=True))
        scores[name] = right / count
    return scores


if __name__ == "__main__":
    torch.set_num_threads(1)
    for title, share in probe(Path(sys.argv[1]), seed=23).items():
        print(f"{title:22} {share:.2f}")
