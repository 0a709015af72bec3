"""RelayService: servers fetch what is asked of their engines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from tunefleet.inference.v1 import relay_service_pb2 as pb
from tunefleet.inference.v1 import relay_service_pb2_grpc as relay_grpc
from tunefleet_core.errors import TunefleetError
from tunefleet_core.rpc import RpcContext
from tunefleet_services.gateway.inference.caller import token_of_call
from tunefleet_services.gateway.relays import Relays

__all__ = ["RelayServicer"]


class RelayServicer(relay_grpc.RelayServiceServicer):
    """Answers servers; the docs of each method are in the proto."""

    def __init__(self, relays: Relays) -> None:
        self._relays = relays

    async def Listen(
        self, request: pb.ListenRequest, context: RpcContext
    ) -> AsyncGenerator[pb.ListenResponse]:
        self._relays.check(token_of_call(context))
        if not request.server:
            raise TunefleetError.field("server", "is missing")
        async with aclosing(self._relays.listen(request.server)) as announced:
            async for relay_id in announced:
                yield pb.ListenResponse(relay_id=relay_id)

    async def Carry(
        self, request_iterator: AsyncIterator[pb.CarryRequest], context: RpcContext
    ) -> AsyncGenerator[pb.CarryResponse]:
        self._relays.check(token_of_call(context))
        async with aclosing(self._relays.carry(request_iterator)) as responses:
            async for response in responses:
                yield response
