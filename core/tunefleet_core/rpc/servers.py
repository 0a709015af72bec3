"""How servicers are added to a server: by the names of their methods alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import grpc
import grpc.aio

__all__ = ["found_by_name"]


def found_by_name(server: grpc.aio.Server) -> grpc.aio.Server:
    """Return what generated code may add its servicers to, so that they are found by name.

    Generated code registers every method with gRPC besides. Then grpc.aio keeps a task per method and
    waits for all of them anew at every call: with some 40 methods a call that does nothing cost 0.20 ms
    of CPU, and 0.13 ms without. What is called does not change.

    Example:
        job_grpc.add_JobServiceServicer_to_server(servicer, found_by_name(server))
    """
    return cast("grpc.aio.Server", _FoundByName(server))


class _FoundByName:
    """The two methods of a server that generated code calls."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add handlers that are asked for a method by its name."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Add nothing: the same methods are among the generic handlers."""
