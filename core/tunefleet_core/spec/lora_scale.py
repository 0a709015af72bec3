"""The factor on a LoRA update: one definition for rules, defaults, notices and the contract.

Plain LoRA multiplies the update by alpha / rank. rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732) by alpha / sqrt(rank), so that its size does not fall as the rank
grows. An engine that ignores the flag serves the update too weak by sqrt(rank).
"""

from __future__ import annotations

import math

from tunefleet.job.v1.spec_pb2 import LoraAdapter, TrainSpec
from tunefleet_core.adapter_inits import LOFTQ

__all__ = [
    "DEFAULT_RANK",
    "LOFTQ",
    "effective_scale",
    "is_given_back",
    "is_only_for_quantised",
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


def is_given_back(train: TrainSpec) -> bool:
    """Return whether what an adapter began with is taken off it as it is written, for the base as it was.

    An adapter of LoftQ together with the quantised base is about the whole base: on a base that is
    not quantised, as engines load it and as it is merged, the beginning would be there twice. It
    stays only in an adapter that is meant to be served on the base quantised as in training.
    """
    if train.adapter.lora.init == LOFTQ:
        return train.merge or train.intended_serving.precision != train.quantization
    return takes_from_base(train.adapter.lora)


def is_only_for_quantised(train: TrainSpec) -> bool:
    """Return whether an adapter is right on a base that is quantised as in training, and on no other."""
    return train.adapter.lora.init == LOFTQ and not is_given_back(train)


def written_rank(train: TrainSpec) -> int:
    """Return the rank of the adapter that is written, doubled where its beginning is taken off; 0: none."""
    if not train.adapter.HasField("lora"):
        return 0
    lora = train.adapter.lora
    rank = lora.rank if lora.HasField("rank") else DEFAULT_RANK
    return 2 * rank if is_given_back(train) else rank
