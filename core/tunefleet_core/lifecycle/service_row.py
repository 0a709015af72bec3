"""The row of a service, and what scheduling knows of its host and backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind, ServiceState
from tunefleet_core.lifecycle.identity import Key, Labels

__all__ = ["BackendFacts", "DeviceFacts", "ServiceRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """A device of a host, in the host's order: id unique on the host, kind such as `cuda`."""

    id: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFacts:
    """What scheduling needs of an installed backend; kinds in the backend's order of preference."""

    name: str
    status: str
    capabilities: frozenset[Capability.ValueType]
    device_kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRow:
    """A service that attached at least once. Key: name. Durable: name, kind, epoch, is_draining."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset(
        {
            "state",
            "last_heard",
            "last_heard_time",
            "deadline",
            "host_id",
            "devices",
            "backends",
            "labels",
            "description",
            "is_stopping",
        }
    )

    name: str
    """As the service says it, `services/{service}`."""
    kind: ServiceKind.ValueType
    version: int
    epoch: int
    """Number of its newest session; reports of an older one are refused."""
    state: ServiceState.ValueType
    is_draining: bool = False
    """It goes on with what it holds and gets nothing new."""
    last_heard: float = 0.0
    last_heard_time: float = 0.0
    deadline: float | None = None
    """When more silence makes it SUSPECT, then LOST; None once LOST."""
    host_id: str = ""
    devices: tuple[DeviceFacts, ...] = ()
    backends: tuple[BackendFacts, ...] = ()
    labels: Labels = ()
    description: bytes = b""
    """`tunefleet.fleet.v1.Service` as it last described itself; empty since a restart."""
    is_stopping: bool = False
    """Its process ends, by its own word; so for this session."""

    @property
    def key(self) -> Key:
        return ("service", self.name, 0)

    @property
    def is_attached(self) -> bool:
        return self.state == ServiceState.SERVICE_STATE_ATTACHED

    @property
    def takes_work(self) -> bool:
        """Whether something new may be given to it."""
        return self.is_attached and not self.is_draining and not self.is_stopping
