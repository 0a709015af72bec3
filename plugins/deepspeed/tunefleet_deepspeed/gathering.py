"""From weights that are split over processes to a whole model on the first one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_trl.adaptation import lora_config

__all__ = ["gather_trained", "put_trained"]


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


def put_trained(model: Any, weights: Mapping[str, Any], spec: ResolvedSpec) -> Any:
    """Return a base with the trained weights on it: in the place of its own, or as an adapter.

    Raises:
        TunefleetError: BACKEND_FAILED naming a weight that is missing or one too many.
    """
    config = lora_config(spec)
    if config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, config)
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if odd := wanted ^ weights.keys():
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"What was trained is not what the base has: {len(odd)} weights differ, such as {min(odd)}.",
            hint="Report it with the name of the base.",
        )
    model.load_state_dict(weights, strict=False)
    return model
