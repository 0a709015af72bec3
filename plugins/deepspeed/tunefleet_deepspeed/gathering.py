"""From weights that are split over processes to whole ones on the first."""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param

__all__ = ["gather_trained"]


def gather_trained(model: torch.nn.Module, *, keeps: bool) -> dict[str, Any]:
    """Return every trained weight, whole and in float32, on the host; every process has to call it.

    Tied weights are one, under the first of their names.

    Args:
        model: The model inside the engine.
        keeps: Whether this process is to have them; others get an empty mapping.
    """
    found: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole = safe_get_full_fp32_param(parameter)
            if keeps:
                found[name] = whole.detach().to("cpu", copy=True)
    return found
