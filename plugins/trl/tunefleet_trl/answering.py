"""Let the model answer while it is in the trainer's hands."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

__all__ = ["likeliest_answer"]


def likeliest_answer(
    model: Any, prompt: Sequence[int], *, most_tokens: int, stops: Collection[int]
) -> list[int]:
    """Return the likeliest continuation of a prompt, token by token, without the stop.

    It draws no random number and keeps no cache. Gradients stay on, though nothing is derived: a
    forward without them repacks 4-bit weights on some processors, for good. The model's mode
    (training or not) is left as it was.

    Args:
        model: A causal language model.
        prompt: Ids of the prompt.
        most_tokens: Longest answer.
        stops: Ids that end it.
    """
    was_training = model.training
    model.eval()
    ids = torch.tensor([list(prompt)], device=model.device)
    try:
        for _ in range(most_tokens):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            token = int(logits[0, -1].detach().argmax())
            if token in stops:
                break
            ids = torch.cat([ids, ids.new_tensor([[token]])], dim=1)
    finally:
        model.train(was_training)
    return ids[0, len(prompt) :].tolist()
