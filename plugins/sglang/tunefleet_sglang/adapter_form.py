"""An adapter as SGLang reads it: one scale, `lora_alpha / r`, for all of it.

SGLang 0.5.23 (srt/lora/lora.py) reads nothing else of a scale. So the scale that was trained is
written as an alpha that gives it: under rsLoRA, alpha / sqrt(r) is alpha * sqrt(r) / r. The
weights stay as they are. What one scale cannot say is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["CONFIG_FILE", "served_config", "write_served"]

CONFIG_FILE = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_REFUSED = {
    "use_dora": "SGLang does not take DoRA",
    "rank_pattern": "SGLang serves one rank for all modules",
    "alpha_pattern": "SGLang serves one scale for all modules",
    "modules_to_save": "SGLang passes over modules that were trained whole",
    "target_parameters": "SGLang passes over factors of 3-D experts",
    "trainable_token_indices": "SGLang takes no adapters with tokens of their own",
}


def served_config(config: Mapping[str, object]) -> dict[str, object]:
    """Return the configuration under which SGLang serves the trained scale.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED naming the field that it cannot serve.
    """
    for name, why in _REFUSED.items():
        if config.get(name):
            raise _refusal(name, why)
    if config.get("bias", "none") != "none":
        raise _refusal("bias", "SGLang passes over a bias in adapters")
    if not config.get("use_rslora"):
        return dict(config)
    alpha, rank = float(cast("float", config["lora_alpha"])), int(cast("int", config["r"]))
    return {**config, "lora_alpha": alpha * math.sqrt(rank), "use_rslora": False}


def write_served(folder: Path, target: Path) -> Path:
    """Return the folder to load: the adapter's own, or `target` with the configuration for SGLang.

    Raises:
        TunefleetError: BACKEND_FAILED for a folder that is no adapter; as `served_config`.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError) as error:
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"No adapter found at {folder}: {error}",
            hint="An adapter is a folder with adapter_config.json, in PEFT's form.",
        ) from error
    if (folder / "added_tokens.json").exists():
        raise _refusal("added_tokens.json", "SGLang takes no adapters that add tokens")
    served = served_config(config)
    if served == config:
        return folder
    for name in _WEIGHTS:
        if (folder / name).exists():
            (target / name).symlink_to((folder / name).resolve())
    (target / CONFIG_FILE).write_text(json.dumps(served, indent=2))
    return target


def _refusal(field: str, why: str) -> TunefleetError:
    return TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"The adapter cannot be served as it was trained: {why} ({field}).",
        hint="Merge it, and deploy the merged model: tunefleet export NAME",
        metadata={"engine": "sglang", "capability": field.upper()},
    )
