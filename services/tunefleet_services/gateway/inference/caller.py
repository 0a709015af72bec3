"""Whose call it is."""

from __future__ import annotations

from typing import cast

from tunefleet_core.rpc import RpcContext

__all__ = ["metadata_of_call", "token_of_call"]


def metadata_of_call(context: RpcContext) -> dict[str, str]:
    """Return the first text of each key of a call's metadata."""
    pairs = cast("tuple[tuple[str, str | bytes], ...]", context.invocation_metadata() or ())
    return {key: value for key, value in reversed(pairs) if isinstance(value, str)}


def token_of_call(context: RpcContext) -> str:
    """Return the token that a call carries; empty: none."""
    value = metadata_of_call(context).get("authorization", "")
    return value.removeprefix("Bearer ") if value.startswith("Bearer ") else ""
