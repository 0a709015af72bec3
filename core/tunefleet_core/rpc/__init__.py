"""gRPC at the edges: errors mapped once in each direction, loopback channels and servers."""

from tunefleet_core.rpc.channels import is_loopback, open_channel
from tunefleet_core.rpc.client_errors import error_from_rpc, is_worth_repeating
from tunefleet_core.rpc.context import RpcContext
from tunefleet_core.rpc.server_errors import ErrorInterceptor
from tunefleet_core.rpc.servers import found_by_name

__all__ = [
    "ErrorInterceptor",
    "RpcContext",
    "error_from_rpc",
    "found_by_name",
    "is_loopback",
    "is_worth_repeating",
    "open_channel",
]
