"""Notices of a plan: what asks for nothing, and what may spoil the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunefleet.backend.v1.inspect_pb2 import FileAudit
from tunefleet.job.v1.event_pb2 import Notice

__all__ = ["info", "stop_notices", "validation_notices", "warning"]


def info(text: str, *, hint: str = "") -> Notice:
    """Build a notice that asks for nothing."""
    return Notice(severity="info", text=text, hint=hint)


def warning(text: str, *, hint: str = "") -> Notice:
    """Build a notice of something that may spoil the result."""
    return Notice(severity="warning", text=text, hint=hint)


def validation_notices(files: Sequence[FileAudit]) -> Iterable[Notice]:
    """Yield a warning for rows that are to validate and cannot."""
    for file in files:
        if not file.mask.trained_tokens:
            yield warning(
                "No token of the validation rows carries loss, so there will be no validation loss.",
                hint="See that the answers in train.data.validation have the role 'assistant'.",
            )


def stop_notices(stop_token_ids: Sequence[int]) -> Iterable[Notice]:
    """Yield a warning where nothing is known to end an answer."""
    if not stop_token_ids:
        yield warning(
            "No token is known to end an answer; the model will talk until its length is used up.",
            hint="Set eos_token_id in the base's generation_config.json.",
        )
