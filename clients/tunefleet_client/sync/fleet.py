"""The fleet: which services are attached and what they hold.

Sync face of `tunefleet_client.fleet`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from typing import Any

from tunefleet.fleet.v1 import fleet_service_pb2 as wire
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_client import fleet as _async
from tunefleet_client.sync.session import Session

__all__ = ["Fleet"]


class Fleet:
    """The services of the fleet. Every method raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Fleet) -> None:
        self._session = session
        self._inner = inner

    def list(self, *, limit: int | None = None) -> tuple[Service, ...]:
        """Return the services that have attached."""
        return self._session.call(self._inner.list(limit=limit))

    def info(self) -> wire.GetFleetResponse:
        """Return versions, addresses and limits of the fleet, and who the caller is."""
        return self._session.call(self._inner.info())

    def get(self, name: str) -> Service:
        """Return a service as it stands."""
        return self._session.call(self._inner.get(name))

    def drain(self, name: str, *, request_id: str | None = None) -> Service:
        """Give a service no new work; what it holds goes on to its end."""
        return self._session.call(self._inner.drain(name, request_id=request_id))

    def undrain(self, name: str, *, request_id: str | None = None) -> Service:
        """Let a drained service take work again."""
        return self._session.call(self._inner.undrain(name, request_id=request_id))

    def remove(self, name: str, *, request_id: str | None = None) -> None:
        """Forget a service that is LOST.

        The certificate and the session of one that joined from another machine end at once; the call
        returns when its leases have run out.

        Raises:
            FailedPrecondition: STATE_CONFLICT while a service of the coordinator's machine is heard from.
        """
        return self._session.call(self._inner.remove(name, request_id=request_id))
