"""Contract hosts as a service sees them: start, keep warm, adopt, call."""

from tunefleet_services.hosts.backends import BackendDirectory
from tunefleet_services.hosts.host import Host, HostRecord, adopt_host, remove_stale_sockets, start_host
from tunefleet_services.hosts.pool import HostPool

__all__ = [
    "BackendDirectory",
    "Host",
    "HostPool",
    "HostRecord",
    "adopt_host",
    "remove_stale_sockets",
    "start_host",
]
