"""How DeepSpeed reads its checkpoints here: nothing in them is run as code."""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

__all__ = ["WeightsOnlyEngine"]

_KNOWN = (LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address)
"""What the library keeps in a checkpoint beside tensors and plain values."""


class WeightsOnlyEngine(TorchCheckpointEngine):
    """Reads tensors, plain values and what is known to be written; the library would unpickle anything."""

    def load(self, path: str, map_location: Any = None) -> Any:
        with torch.serialization.safe_globals(list(_KNOWN)):
            return torch.load(path, map_location=map_location, weights_only=True)
