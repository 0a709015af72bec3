"""Ids of requests to the coordinator: a client that says which request it repeats gets one answer."""

from __future__ import annotations

import uuid

from aiohttp import web

__all__ = ["new_request_id", "request_id_of"]


def new_request_id() -> str:
    """Return an id that nobody used before."""
    return str(uuid.uuid4())


def request_id_of(request: web.Request) -> str:
    """Return a UUID: the same one for the same `Idempotency-Key` on the same path."""
    key = request.headers.get("Idempotency-Key", "")
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{request.path}#{key}")) if key else new_request_id()
