"""Which bases the library can put a head on that scores, asked before a weight is read."""

from __future__ import annotations

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["NO_HEAD", "WITHOUT_HEAD", "has_head", "require_head"]

NO_HEAD = "the library has no class that scores"
WITHOUT_HEAD = (
    *("cohere", "cohere2", "deepseek_v4"),
    *("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"),
    *("llama4", "llama4_text", "qwen3_5_moe", "qwen3_5_moe_text"),
)
"""Types of families for which that is so, as the manifest says them, which asks no library."""


def has_head(base: BaseFacts) -> bool:
    """Return whether the library has a class for this type of model that scores."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    return base.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


def require_head(base: BaseFacts) -> None:
    """Refuse a base that the library cannot put a head on.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED naming the type of model.
    """
    if has_head(base):
        return
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"train.method.reward: {NO_HEAD} for the type '{base.model_type}'.",
        hint="Take a base of another family, such as qwen3, llama or gemma2.",
        metadata={"backend": "trl", "capability": "METHODS", "field": "train.method.reward"},
    )
