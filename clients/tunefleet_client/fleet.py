"""The fleet: which services are attached and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunefleet.fleet.v1 import fleet_service_pb2 as wire
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from tunefleet_client.calls import Connection
from tunefleet_client.names import global_name
from tunefleet_client.pages import all_pages
from tunefleet_client.requests import new_request_id

if TYPE_CHECKING:
    from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub

__all__ = ["Fleet"]

_REMOVE_DEADLINE_SECONDS = 120.0


class Fleet:
    """The services of the fleet. Every method raises TunefleetError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: FleetServiceAsyncStub = FleetServiceStub(connection.channel)

    async def list(self, *, limit: int | None = None) -> tuple[Service, ...]:
        """Return the services that have attached."""

        async def page(size: int, token: str) -> tuple[Sequence[Service], str]:
            request = wire.ListServicesRequest(page_size=size, page_token=token)
            response = await self._connection.unary(self._stub.ListServices, request)
            return response.services, response.next_page_token

        return await all_pages(page, limit=limit)

    async def info(self) -> wire.GetFleetResponse:
        """Return versions, addresses and limits of the fleet, and who the caller is."""
        return await self._connection.unary(self._stub.GetFleet, wire.GetFleetRequest())

    async def get(self, name: str) -> Service:
        """Return a service as it stands."""
        request = wire.GetServiceRequest(name=_name(name))
        return (await self._connection.unary(self._stub.GetService, request)).service

    async def drain(self, name: str, *, request_id: str | None = None) -> Service:
        """Give a service no new work; what it holds goes on to its end."""
        request = wire.DrainServiceRequest(request_id=new_request_id(request_id), name=_name(name))
        return (await self._connection.unary(self._stub.DrainService, request)).service

    async def undrain(self, name: str, *, request_id: str | None = None) -> Service:
        """Let a drained service take work again."""
        request = wire.UndrainServiceRequest(request_id=new_request_id(request_id), name=_name(name))
        return (await self._connection.unary(self._stub.UndrainService, request)).service

    async def remove(self, name: str, *, request_id: str | None = None) -> None:
        """Forget a service that is LOST.

        The certificate and the session of one that joined from another machine end at once; the call
        returns when its leases have run out.

        Raises:
            FailedPrecondition: STATE_CONFLICT while a service of the coordinator's machine is heard from.
        """
        request = wire.RemoveServiceRequest(request_id=new_request_id(request_id), name=_name(name))
        await self._connection.unary(
            self._stub.RemoveService, request, deadline_seconds=_REMOVE_DEADLINE_SECONDS
        )


def _name(name: str) -> str:
    return global_name(name, collection="services")
