"""The type of a call's context, which grpc's stubs make generic and its runtime does not."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc.aio

__all__ = ["RpcContext"]

RpcContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""Second argument of every servicer method."""
