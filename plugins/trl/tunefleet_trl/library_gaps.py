"""What TRL's loss looks for in a model, where classes of transformers 5.23 name it otherwise.

TRL 1.16 computes its loss from the hidden states of the part that `base_model` finds, and the
auxiliary loss of routed experts from `num_experts` of the config. Two classes have both under other
names; nothing else keeps them from being trained.
"""

from __future__ import annotations

from typing import Any

__all__ = ["close_library_gaps"]

_BACKBONE_UNDER = {"Llama4ForCausalLM": "model"}
"""Classes whose `base_model_prefix` names no part of theirs: it is that of the model with vision."""
_EXPERT_COUNTS = {"llama4_text": "num_local_experts", "deepseek_v4": "n_routed_experts"}
"""Types of config that count their experts under another name only."""


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
