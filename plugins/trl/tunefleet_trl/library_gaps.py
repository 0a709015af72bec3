"""What TRL's loss looks for in a model, where classes of transformers 5.23 name it otherwise.

TRL 1.16 computes its loss from the hidden states of the part that `base_model` finds, and the
auxiliary loss of routed experts from `num_experts` of the config. Two classes have both under other
names; nothing else keeps them from being trained. One class makes its masks without the positions
by which every other class tells packed rows apart.
"""

from __future__ import annotations

from typing import Any

__all__ = ["close_library_gaps"]

_BACKBONE_UNDER = {"Llama4ForCausalLM": "model"}
"""Classes whose `base_model_prefix` names no part of theirs: it is that of the model with vision."""
_EXPERT_COUNTS = {"llama4_text": "num_local_experts", "deepseek_v4": "n_routed_experts"}
"""Types of config that count their experts under another name only."""


_MASKED_WITHOUT_POSITIONS = ("gpt_oss",)
"""Types of config whose class passes no positions on to its masks."""


def close_library_gaps(model: Any) -> None:
    """Let TRL find what it needs in a model; one that has all of it is left as it is.

    Nothing of this is saved: names are mapped, not copied.
    """
    if prefix := _BACKBONE_UNDER.get(type(model).__name__):
        model.base_model_prefix = prefix
    config = model.config.get_text_config()
    count = _EXPERT_COUNTS.get(config.model_type)
    if count and "num_experts" not in config.attribute_map:
        type(config).attribute_map = {**config.attribute_map, "num_experts": count}
    if config.model_type in _MASKED_WITHOUT_POSITIONS:
        model.model.register_forward_pre_hook(_mask_by_positions, with_kwargs=True)


def _mask_by_positions(
    module: Any, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give a pass with positions and without a mask the masks that its positions ask for."""
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    positions = named.get("position_ids")
    if positions is None or named.get("attention_mask") is not None or named.get("past_key_values"):
        return arguments, named
    weights = module.embed_tokens.weight
    asked = {
        "config": module.config,
        "inputs_embeds": weights.new_empty((*positions.shape, 1)),  # of these the shape is looked at
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": positions,
    }
    masks = {
        "full_attention": create_causal_mask(**asked),
        "sliding_attention": create_sliding_window_causal_mask(**asked),
    }
    return arguments, {**named, "attention_mask": masks}
