"""Put learned embeddings before prompts of several lengths.

The library puts them before the padding, and then takes no positions: a prompt would stand as far
from them as others of its batch are longer, and be answered by its company.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["learned_prompt", "prepended"]


def learned_prompt(model: Any) -> torch.Tensor | None:
    """Return the learned embeddings of a model, (tokens, width); None: it has none."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    return model.get_prompt(batch_size=1)[0]


def prepended(learned: torch.Tensor, model: Any, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    """Return what the base is given for prompts that are filled up on the left.

    Args:
        learned: What `learned_prompt` said.
        model: The model.
        ids: Prompts, (rows, length).
        mask: 0 where they are filled up.
    """
    own = model.get_input_embeddings()(ids)
    count, width = learned.shape[0], ids.shape[1]
    embeds = own.new_zeros((ids.shape[0], count + width, own.shape[2]))
    whole = mask.new_zeros((ids.shape[0], count + width))
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        embeds[row, width - length : width - length + count] = learned.to(own.dtype)
        embeds[row, width - length + count :] = own[row, width - length :]
        whole[row, width - length :] = 1
    return {"inputs_embeds": embeds, "attention_mask": whole}
