"""What transformers and PEFT say alone, one row at a time: the truth the engine is compared with."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


@lru_cache(maxsize=16)
def load(base: Path, adapter: Path | None) -> Any:
    """The base, with the adapter on PEFT's own single-adapter path."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


@lru_cache(maxsize=4)
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


def greedy(
    base: Path, adapter: Path | None, prompt_ids: list[int], tokens: int, *, stop_at_eos: bool = False
) -> list[int]:
    """The ids that generate() adds to the prompt."""
    eos = tokenizer(base).eos_token_id if stop_at_eos else None
    ids = torch.tensor([prompt_ids])
    with torch.inference_mode():
        out = load(base, adapter).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=eos,
            pad_token_id=0,
        )
    return out[0, len(prompt_ids) :].tolist()


def logprobs(base: Path, adapter: Path | None, ids: list[int]) -> torch.Tensor:
    """log_softmax of the next token at every position: [tokens, vocabulary]."""
    with torch.inference_mode():
        return torch.log_softmax(load(base, adapter)(input_ids=torch.tensor([ids])).logits[0], dim=-1)
