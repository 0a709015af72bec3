"""The one format that this backend writes, for which models, and what it may cost."""

from __future__ import annotations

__all__ = ["FORMAT", "MODEL_TYPES", "TOLERANCE"]

FORMAT = "mxfp4"
MODEL_TYPES = ("gpt_oss",)
"""Types of model that are published, trained here, and read by engines in this layout."""
TOLERANCE = 0.35
"""Nats that it may cost on the reference prompts: only the routed experts are rounded."""
