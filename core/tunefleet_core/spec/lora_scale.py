"""The factor on a LoRA update: one definition for rules, defaults, notices and the contract.

Plain LoRA multiplies the update by alpha / rank. rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732) by alpha / sqrt(rank), so that its size does not fall as the rank
grows. An engine that ignores the flag serves the update too weak by sqrt(rank).
"""

from __future__ import annotations

import math

from tunefleet.job.v1.spec_pb2 import LoraAdapter

__all__ = [
    "DEFAULT_RANK",
    "effective_scale",
    "neutral_alpha",
    "scale_formula",
    "takes_from_base",
    "written_rank",
]

DEFAULT_RANK = 16


def effective_scale(lora: LoraAdapter) -> float:
    """Return the factor on the update; fields that were left out count as their defaults."""
    alpha = lora.alpha if lora.HasField("alpha") else neutral_alpha(lora)
    return alpha / neutral_alpha(lora)


def neutral_alpha(lora: LoraAdapter) -> float:
    """Return the alpha that makes the scale 1: the rank, or its square root under rsLoRA."""
    rank = lora.rank if lora.HasField("rank") else DEFAULT_RANK
    return math.sqrt(rank) if lora.rslora else float(rank)


def scale_formula(lora: LoraAdapter) -> str:
    """Return how the scale is made, for people."""
    return "alpha / sqrt(rank)" if lora.rslora else "alpha / rank"


def takes_from_base(lora: LoraAdapter) -> bool:
    """Return whether the adapter begins with a part of the base, which is without it while it is trained."""
    return lora.init in ("pissa", "olora")


def written_rank(lora: LoraAdapter) -> int:
    """Return the rank of the adapter that is written: doubled where a part of the base is given back."""
    rank = lora.rank if lora.HasField("rank") else DEFAULT_RANK
    return 2 * rank if takes_from_base(lora) else rank
