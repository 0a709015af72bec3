"""Parts that requests of every noun share."""

from __future__ import annotations

import uuid

__all__ = ["new_request_id"]


def new_request_id(given: str | None) -> str:
    """Return the idempotency key of a mutation: the caller's own, else a new one."""
    return given or str(uuid.uuid4())
