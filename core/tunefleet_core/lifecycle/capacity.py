"""Which services could take work: free devices per host, and trainers that have any.

With thousands of busy trainers a submit must not look at each of them, so the trainers
with at least one free device are kept in an index by backend.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.lifecycle.ledger import DeviceKey
from tunefleet_core.lifecycle.rows import ACTIVE, CPU, BackendFacts, DeviceFacts, ServiceRow

__all__ = ["CapacityIndex", "active_backend", "active_backends", "parallel_devices", "usable_devices"]


def active_backend(service: ServiceRow, name: str) -> BackendFacts | None:
    """Return a backend of a service if it can take work."""
    return next((item for item in service.backends if item.name == name and item.status == ACTIVE), None)


def active_backends(service: ServiceRow) -> list[BackendFacts]:
    """Return the backends of a service that can take work."""
    return [item for item in service.backends if item.status == ACTIVE]


def usable_devices(service: ServiceRow, backend: BackendFacts) -> tuple[DeviceFacts, ...]:
    """Return the devices of a host that a backend would use: all of one kind.

    The kind is the first of the backend's that the host has, accelerators before the
    processor: a job waits for a busy GPU rather than run a hundred times slower beside it.
    """
    present = {device.kind for device in service.devices}
    kinds = sorted(backend.device_kinds, key=lambda kind: kind == CPU)
    kind = next((item for item in kinds if item in present), None)
    return tuple(device for device in service.devices if device.kind == kind)


class CapacityIndex:
    """Services by host, and attached trainers with a free device by backend."""

    def __init__(self) -> None:
        self._services_of_host: dict[str, dict[str, None]] = {}
        self._idle: dict[str, list[str]] = {}
        self._listed: dict[str, tuple[str, ...]] = {}

    def idle_trainers(self, backend: str) -> Sequence[str]:
        """Return the trainers with a device free for a backend, by name. Not to be changed."""
        return self._idle.get(backend, ())

    def services_of_host(self, host_id: str) -> list[str]:
        """Return the services seen on a host."""
        return list(self._services_of_host.get(host_id, {}))

    def place(self, old: ServiceRow | None, new: ServiceRow | None) -> None:
        """Move a service to the host that its row names."""
        if old is not None:
            self._services_of_host.get(old.host_id, {}).pop(old.name, None)
        if new is not None:
            self._services_of_host.setdefault(new.host_id, {})[new.name] = None

    def refresh(self, service: ServiceRow, is_free: Callable[[DeviceKey], bool]) -> None:
        """Recompute for which backends a service is idle."""
        wanted: tuple[str, ...] = ()
        if service.takes_work and service.kind == ServiceKind.SERVICE_KIND_TRAINER:
            wanted = tuple(
                backend.name
                for backend in active_backends(service)
                if any(is_free((service.host_id, device.id)) for device in usable_devices(service, backend))
            )
        listed = self._listed.get(service.name, ())
        if wanted == listed:
            return
        for backend in set(listed).difference(wanted):
            names = self._idle[backend]
            del names[bisect_left(names, service.name)]
        for backend in set(wanted).difference(listed):
            insort(self._idle.setdefault(backend, []), service.name)
        self._listed[service.name] = wanted

    def forget(self, name: str) -> None:
        """Drop a service from the index of idle trainers."""
        for backend in self._listed.pop(name, ()):
            names = self._idle[backend]
            del names[bisect_left(names, name)]


def parallel_devices(settings: EngineSettings) -> int:
    """Return how many devices of its host an engine needs.

    An engine over several hosts (`options.nnodes`, as vLLM calls them) has an equal part on each.
    """
    counts = (settings.tensor_parallel, settings.pipeline_parallel, settings.data_parallel)
    found = 1
    for count in counts:
        found *= max(count, 1)
    hosts = settings.options.fields["nnodes"].number_value if "nnodes" in settings.options.fields else 1
    return max(1, found // max(1, int(hosts)))
