"""Write whole weights: a model folder that any engine reads, and checkpoints that lose nothing.

A model folder is the base's own, with other weights: config and tokenizer are copied
rather than written anew, since a newer library writes forms that older engines refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from transformers import GenerationConfig

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.artifacts import complete_model_folder

__all__ = ["MODEL_WEIGHTS", "load_weights", "save_model_folder", "save_weights"]

MODEL_WEIGHTS = "model.safetensors"
_FILE_MODE = 0o644
"""The library writes weights as 0600, which another user's engine could not read."""


def save_model_folder(
    model: Any, folder: Path, base: BaseFacts, *, template: str, stops: Sequence[int]
) -> None:
    """Write a model of transformers into an existing, empty folder, as its base is laid out.

    Args:
        model: The model, in the number type its weights are to have.
        folder: Where to.
        base: The base it was made from; its folder must still be there.
        template: Jinja source of the chat template; it goes to `chat_template.jinja`.
        stops: Token ids that end an answer; they go to `generation_config.json`.
    """
    # The library refuses to write sampling settings that it finds odd, as many bases have them.
    own = getattr(model, "generation_config", None)  # a model that scores has none
    model.generation_config = GenerationConfig()
    model.save_pretrained(str(folder), safe_serialization=True)
    model.generation_config = own
    (folder / "generation_config.json").unlink(missing_ok=True)
    dtype = str(model.dtype).removeprefix("torch.")
    complete_model_folder(folder, base, dtype=dtype, template=template, stops=stops)


def save_weights(model: torch.nn.Module, folder: Path) -> None:
    """Write every weight under the name it has in memory, bit for bit; for checkpoints."""
    save_model(model, str(folder / MODEL_WEIGHTS))
    (folder / MODEL_WEIGHTS).chmod(_FILE_MODE)


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Read what `save_weights` wrote into the same architecture.

    Raises:
        RuntimeError: a weight is missing, or there is one too many.
    """
    load_model(model, folder / MODEL_WEIGHTS, strict=True)
