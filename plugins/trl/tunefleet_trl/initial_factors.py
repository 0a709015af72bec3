"""Adapters that begin with a part of the base: taken out of it while it is trained, given back when written.

PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) start B and A from factors of each weight W
and train beside the rest, W - scale x B0 A0. On the whole base the trained update is
scale x (B A - B0 A0), which is a plain adapter of twice the rank: A over A0, and B beside -B0. So
it is written; any engine serves it, it merges, and it mixes with others.

LoftQ takes nothing out: the quantised base lacks scale x B0 A0 as it is (`residual_factors`). The
same holds of what is written, nearer to the trained model than an adapter that began with nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunefleet_trl.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

__all__ = ["InitialFactors"]

_A, _B = ".lora_A.", ".lora_B."


class InitialFactors:
    """The factors that an adapter began with. Make it before the first step, and before resuming."""

    def __init__(self, model: Any) -> None:
        self._factors = {
            name.replace(".default", ""): parameter.detach().to("cpu", torch.float32, copy=True)
            for name, parameter in model.named_parameters()
            if _A in name or _B in name
        }

    def give_back(self, folder: Path) -> None:
        """Rewrite a saved adapter so that it is right on the base as it was."""
        path = folder / ADAPTER_WEIGHTS
        mode = path.stat().st_mode
        trained = load_file(path)
        whole: dict[str, torch.Tensor] = {}
        for name, weight in trained.items():
            began = self._factors[name].to(weight.dtype)
            if _A in name:
                whole[name] = torch.cat([weight, began], dim=0).contiguous()
            else:
                whole[name] = torch.cat([weight, -began], dim=1).contiguous()
        save_file(whole, path, metadata={"format": "pt"})
        path.chmod(mode)
        config_path = folder / ADAPTER_CONFIG
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config |= {
            "r": 2 * config["r"],
            "lora_alpha": 2 * config["lora_alpha"],  # the same scale
            "init_lora_weights": True,
        }
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
