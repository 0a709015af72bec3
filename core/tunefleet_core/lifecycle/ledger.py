"""Who holds which device: booked by (host id, device id), whatever service books it.

A trainer and a server on one host see the same devices; only this table keeps them
apart. Attempts hold a device alone; replicas that share an engine share theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from tunefleet.deployment.v1.deployment_pb2 import DeploymentState
from tunefleet_core.lifecycle.rows import AttemptRow, Key, ReplicaRow, Row

__all__ = ["DeviceKey", "DeviceLedger", "bookings"]

DeviceKey: TypeAlias = tuple[str, str]
"""(host id, device id)"""

_BOOKING_STATES = frozenset(
    {
        DeploymentState.DEPLOYMENT_STATE_PREPARING,
        DeploymentState.DEPLOYMENT_STATE_STARTING,
        DeploymentState.DEPLOYMENT_STATE_READY,
        DeploymentState.DEPLOYMENT_STATE_STOPPING,
        DeploymentState.DEPLOYMENT_STATE_DRAINING,
    }
)


def bookings(row: Row | None) -> tuple[DeviceKey, ...]:
    """Return the devices that a row holds; a STOPPING replica still does."""
    if isinstance(row, AttemptRow) and row.is_live:
        return tuple((row.host_id, device) for device in row.device_ids)
    if isinstance(row, ReplicaRow) and row.state in _BOOKING_STATES:
        return tuple((row.host_id, device) for device in row.device_ids)
    return ()


class DeviceLedger:
    """Holders of every booked device."""

    def __init__(self) -> None:
        self._holders: dict[DeviceKey, set[Key]] = {}

    def book(self, holder: Key, devices: Iterable[DeviceKey]) -> None:
        """Add a holder to devices."""
        for device in devices:
            self._holders.setdefault(device, set()).add(holder)

    def release(self, holder: Key, devices: Iterable[DeviceKey]) -> None:
        """Take a holder off devices."""
        for device in devices:
            holders = self._holders[device]
            holders.remove(holder)
            if not holders:
                del self._holders[device]

    def holders(self, device: DeviceKey) -> frozenset[Key] | set[Key]:
        """Return the keys of the rows that hold a device. Not to be changed by the caller."""
        return self._holders.get(device, frozenset())

    def booked(self) -> Mapping[DeviceKey, set[Key]]:
        """Return every booked device with its holders. Not to be changed by the caller."""
        return self._holders
