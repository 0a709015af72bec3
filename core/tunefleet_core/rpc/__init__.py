"""gRPC at the edges: errors mapped once in each direction, loopback channels and servers."""

from tunefleet_core.rpc.channels import is_loopback, open_channel
from tunefleet_core.rpc.client_errors import error_from_rpc, is_worth_repeating
from tunefleet_core.rpc.context import RpcContext
from tunefleet_core.rpc.server_errors import ErrorInterceptor

__all__ = [
    "ErrorInterceptor",
    "RpcContext",
    "error_from_rpc",
    "is_loopback",
    "is_worth_repeating",
    "open_channel",
]
