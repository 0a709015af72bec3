"""FleetService: the one that services speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from tunefleet.fleet.v1 import fleet_service_pb2 as pb
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_coordinator.inspections import InspectionBroker
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.requests import request_of
from tunefleet_coordinator.security import current_principal
from tunefleet_coordinator.servicers.fleet_facts import FleetFacts
from tunefleet_coordinator.servicers.holders import require_holder
from tunefleet_coordinator.servicers.joining import JoinDesk
from tunefleet_coordinator.servicers.pages import page_of
from tunefleet_coordinator.servicers.tokens import TokenDesk
from tunefleet_coordinator.sessions import Sessions
from tunefleet_coordinator.views import service_view
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import (
    DrainRequested,
    EventsAcknowledged,
    EventsReported,
    ServiceRemoveRequested,
    World,
)
from tunefleet_core.rpc import RpcContext

__all__ = ["FleetServicer"]

_LOCAL_PEERS = ("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", "unix:")


class FleetServicer(fleet_grpc.FleetServiceServicer):
    """Answers services, and people about services; the docs of each method are in the proto."""

    def __init__(
        self,
        kernel: Kernel,
        sessions: Sessions,
        broker: InspectionBroker,
        facts: FleetFacts,
        *,
        tokens: TokenDesk,
        joining: JoinDesk,
    ) -> None:
        self._kernel = kernel
        self._sessions = sessions
        self._broker = broker
        self._facts = facts
        self._tokens = tokens
        self._joining = joining

    async def GetFleet(self, request: pb.GetFleetRequest, context: RpcContext) -> pb.GetFleetResponse:
        is_local = context.peer().startswith(_LOCAL_PEERS)
        return await asyncio.to_thread(self._facts.told_to, current_principal(), is_local=is_local)

    async def ListServices(
        self, request: pb.ListServicesRequest, context: RpcContext
    ) -> pb.ListServicesResponse:
        services = await self._kernel.observe(
            lambda world: [item for row in world.services() if (item := _service(world, row.name))]
        )
        page = page_of(services, request, lambda service: (service.name,))
        return pb.ListServicesResponse(services=page.items, next_page_token=page.next_page_token)

    async def GetService(self, request: pb.GetServiceRequest, context: RpcContext) -> pb.GetServiceResponse:
        return pb.GetServiceResponse(service=await self._service(request.name))

    async def DrainService(
        self, request: pb.DrainServiceRequest, context: RpcContext
    ) -> pb.DrainServiceResponse:
        asked = request_of(request, "DrainService")
        await self._kernel.submit(
            DrainRequested(at=self._kernel.moment(), request=asked, name=request.name, is_draining=True)
        )
        return pb.DrainServiceResponse(service=await self._service(request.name))

    async def UndrainService(
        self, request: pb.UndrainServiceRequest, context: RpcContext
    ) -> pb.UndrainServiceResponse:
        asked = request_of(request, "UndrainService")
        await self._kernel.submit(
            DrainRequested(at=self._kernel.moment(), request=asked, name=request.name, is_draining=False)
        )
        return pb.UndrainServiceResponse(service=await self._service(request.name))

    async def RemoveService(
        self, request: pb.RemoveServiceRequest, context: RpcContext
    ) -> pb.RemoveServiceResponse:
        asked = request_of(request, "RemoveService")
        if await self._joining.revoke(request.name):
            return pb.RemoveServiceResponse()
        await self._kernel.submit(
            ServiceRemoveRequested(at=self._kernel.moment(), request=asked, name=request.name)
        )
        return pb.RemoveServiceResponse()

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: RpcContext
    ) -> pb.CreateTokenResponse:
        return await self._tokens.create(request)

    async def ListTokens(self, request: pb.ListTokensRequest, context: RpcContext) -> pb.ListTokensResponse:
        return await self._tokens.list(request)

    async def RevokeToken(
        self, request: pb.RevokeTokenRequest, context: RpcContext
    ) -> pb.RevokeTokenResponse:
        return await self._tokens.revoke(request)

    async def CreateJoinToken(
        self, request: pb.CreateJoinTokenRequest, context: RpcContext
    ) -> pb.CreateJoinTokenResponse:
        return await self._joining.create_token(request)

    async def ListJoinTokens(
        self, request: pb.ListJoinTokensRequest, context: RpcContext
    ) -> pb.ListJoinTokensResponse:
        return await self._joining.list_tokens(request)

    async def RevokeJoinToken(
        self, request: pb.RevokeJoinTokenRequest, context: RpcContext
    ) -> pb.RevokeJoinTokenResponse:
        return await self._joining.revoke_token(request)

    async def Join(self, request: pb.JoinRequest, context: RpcContext) -> pb.JoinResponse:
        return await self._joining.join(request)

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: RpcContext
    ) -> pb.RenewCertificateResponse:
        return await self._joining.renew(request)

    async def Attach(
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: RpcContext
    ) -> AsyncGenerator[pb.AttachResponse]:
        principal = current_principal()
        async for response in self._sessions.serve(
            request_iterator,
            admit=self._joining.admit,
            artifact_store=self._joining.artifact_store(principal),
            relayed_as=principal.service.removeprefix("services/"),
        ):
            yield response

    async def ReportEvents(
        self, request: pb.ReportEventsRequest, context: RpcContext
    ) -> pb.ReportEventsResponse:
        await require_holder(self._kernel, request.job_uid, request.attempt)
        answer = await self._kernel.submit(
            EventsReported(
                at=self._kernel.moment(),
                job_uid=request.job_uid,
                attempt=request.attempt,
                fencing_number=request.fencing_number,
                events=tuple(request.events),
            )
        )
        assert isinstance(answer, EventsAcknowledged)  # the answer to EventsReported
        return pb.ReportEventsResponse(acknowledged_source_sequence=answer.acknowledged_source_sequence)

    async def ReportInspection(
        self, request: pb.ReportInspectionRequest, context: RpcContext
    ) -> pb.ReportInspectionResponse:
        self._broker.answer(request.answer, service=current_principal().service)
        return pb.ReportInspectionResponse()

    async def _service(self, name: str) -> Service:
        service = await self._kernel.observe(lambda world: _service(world, name))
        if service is None:
            raise TunefleetError(
                Reason.SERVICE_NOT_FOUND,
                f"There is no service '{name}'.",
                hint="See the services there are: tunefleet fleet list",
                metadata={"service": name},
            )
        return service


def _service(world: World, name: str) -> Service | None:
    row = world.service(name)
    if row is None:
        return None
    jobs = (world.job(attempt.job_uid) for attempt in world.attempts_of_service(name))
    versions = (
        world.deployment(replica.version_uid)
        for replica in world.replicas_of_service(name)
        if replica.is_live
    )
    return service_view(row, [held.name for held in (*jobs, *versions) if held is not None])
