"""RelayService: servers fetch what is asked of their engines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from tunefleet.inference.v1 import relay_service_pb2 as pb
from tunefleet.inference.v1 import relay_service_pb2_grpc as relay_grpc
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import RpcContext, peer_certificate
from tunefleet_services.gateway.inference.caller import token_of_call
from tunefleet_services.gateway.relays import Relays

__all__ = ["RelayServicer"]


class RelayServicer(relay_grpc.RelayServiceServicer):
    """Answers servers; the docs of each method are in the proto."""

    def __init__(self, relays: Relays, *, by_certificate: bool = False) -> None:
        self._relays = relays
        self._by_certificate = by_certificate

    async def Listen(
        self, request: pb.ListenRequest, context: RpcContext
    ) -> AsyncGenerator[pb.ListenResponse]:
        own = self._check(context)
        if not request.server:
            raise TunefleetError.field("server", "is missing")
        if own not in ("", request.server):
            raise TunefleetError(
                Reason.PERMISSION_DENIED,
                f"Server {own} may not listen as {request.server}.",
                hint="Its certificate is for its own name: join again to have another.",
            )
        certificate = peer_certificate(context) if own else ""
        async with aclosing(self._relays.listen(request.server, certificate=certificate)) as announced:
            async for relay_id in announced:
                yield pb.ListenResponse(relay_id=relay_id)

    async def Carry(
        self, request_iterator: AsyncIterator[pb.CarryRequest], context: RpcContext
    ) -> AsyncGenerator[pb.CarryResponse]:
        own = self._check(context)
        async with aclosing(self._relays.carry(request_iterator, server=own)) as responses:
            async for response in responses:
                yield response

    def _check(self, context: RpcContext) -> str:
        """Return the server whose certificate was shown; empty for one of this machine, with its token."""
        if self._by_certificate:
            return self._relays.member(peer_certificate(context))
        self._relays.check(token_of_call(context))
        return ""
