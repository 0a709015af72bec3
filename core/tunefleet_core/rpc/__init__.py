"""gRPC at the edges: errors mapped once in each direction, channels and listeners."""

from tunefleet_core.rpc.channels import LIVENESS_OPTIONS, ChannelTls, is_loopback, open_channel
from tunefleet_core.rpc.client_errors import error_from_rpc, is_worth_repeating
from tunefleet_core.rpc.context import RpcContext
from tunefleet_core.rpc.handshakes import explain_handshake
from tunefleet_core.rpc.listeners import ListenerTls, listen, listener_options, read_pem, require_tls
from tunefleet_core.rpc.peers import peer_certificate
from tunefleet_core.rpc.server_errors import ErrorInterceptor
from tunefleet_core.rpc.servers import found_by_name

__all__ = [
    "LIVENESS_OPTIONS",
    "ChannelTls",
    "ErrorInterceptor",
    "ListenerTls",
    "RpcContext",
    "error_from_rpc",
    "explain_handshake",
    "found_by_name",
    "is_loopback",
    "is_worth_repeating",
    "listen",
    "listener_options",
    "open_channel",
    "peer_certificate",
    "read_pem",
    "require_tls",
]
