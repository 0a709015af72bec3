"""Write an adapter as PEFT reads it, and nothing else into its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunefleet.model.v1.base_pb2 import BaseFacts

__all__ = ["ADAPTER_CONFIG", "ADAPTER_WEIGHTS", "load_trained", "save_adapter"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_FILE_MODE = 0o644
"""The library writes weights as 0600, which another user's engine could not read."""


def save_adapter(model: Any, folder: Path, base: BaseFacts) -> None:
    """Write the adapter's weights and config into an existing, empty folder."""
    # The library would add a model card that says nothing, at a cost of several times the weights'.
    model.create_or_update_model_card = lambda output_dir: None
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    _settle_config(folder / ADAPTER_CONFIG, base)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        (folder / name).chmod(_FILE_MODE)


def load_trained(model: Any, folder: Path) -> None:
    """Give an adapter that is being trained the weights that `save_adapter` wrote.

    The library's own way refuses to go on training learned embeddings that were loaded.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / ADAPTER_WEIGHTS))


def _settle_config(path: Path, base: BaseFacts) -> None:
    """Name the base by Hub id and commit or by folder, and order what the library leaves to chance.

    It writes targets in the order of a set: equal adapters would differ in their digest.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.model if base.commit else base.path
    config["revision"] = base.commit or None
    if config["peft_type"] == "PROMPT_TUNING":
        # How it began is of no use to who loads it, and names a folder of this machine.
        config |= {
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
        }
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return
    config["target_modules"] = sorted(config["target_modules"])
    # The library writes an empty list for some types of model and null for others.
    config["target_parameters"] = sorted(config.get("target_parameters") or []) or None
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
