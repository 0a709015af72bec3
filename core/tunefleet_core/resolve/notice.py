"""Notices of a plan: what asks for nothing, and what may spoil the result."""

from __future__ import annotations

from tunefleet.job.v1.event_pb2 import Notice

__all__ = ["info", "warning"]


def info(text: str, *, hint: str = "") -> Notice:
    """Build a notice that asks for nothing."""
    return Notice(severity="info", text=text, hint=hint)


def warning(text: str, *, hint: str = "") -> Notice:
    """Build a notice of something that may spoil the result."""
    return Notice(severity="warning", text=text, hint=hint)
