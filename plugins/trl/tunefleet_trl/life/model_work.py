"""What a token costs the model of a trainer, and what it runs on."""

from __future__ import annotations

from typing import Any

import torch

from tunefleet_core.run_health import ModelWork
from tunefleet_trl.loading import Hardware

__all__ = ["device_name", "model_work"]


def device_name(hardware: Hardware) -> str:
    """Return the device's name as its driver tells it; empty for the CPU, whose peak nobody states."""
    return torch.cuda.get_device_name() if hardware.kind == "cuda" else ""


def model_work(model: Any) -> ModelWork:
    """Count what a token passes through: no embedding, and of routed experts those it is sent to."""
    config = model.config.get_text_config()
    experts = _first(config, "num_experts", "num_local_experts", "n_routed_experts")
    chosen = _first(config, "num_experts_per_tok", "num_experts_per_token")
    embedding = model.get_input_embeddings().weight
    parameters = trainable = 0
    for name, parameter in model.named_parameters():
        if parameter is embedding and not config.tie_word_embeddings:
            continue  # looked up; tied, it is the head's too
        # Packed 4-bit weights hold two in a byte; the library keeps their true shape.
        state = getattr(parameter, "quant_state", None)
        count = state.shape.numel() if state is not None else parameter.numel()
        if experts and chosen and ".experts." in name:
            count = count * chosen // experts
        parameters += count
        trainable += count if parameter.requires_grad else 0
    heads = _first(config, "num_attention_heads")
    head = _first(config, "head_dim") or (config.hidden_size // heads if heads else 0)
    return ModelWork(
        parameters=parameters, trainable=trainable, layers=config.num_hidden_layers, width=heads * head
    )


def _first(config: Any, *names: str) -> int:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)
