"""Join tokens: with which processes on other machines become services of the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from tunefleet.fleet.v1 import fleet_service_pb2 as wire
from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from tunefleet_client.calls import Connection
from tunefleet_client.errors import failure
from tunefleet_client.names import global_name
from tunefleet_client.pages import all_pages
from tunefleet_client.requests import new_request_id
from tunefleet_core.errors import Reason

if TYPE_CHECKING:
    from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub

__all__ = ["JoinTokens"]


class JoinTokens:
    """The join tokens of the fleet. Raises TunefleetError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: FleetServiceAsyncStub = FleetServiceStub(connection.channel)

    async def create(
        self,
        kind: str,
        *,
        service: str = "",
        ttl: timedelta | None = None,
        uses: int = 1,
        hosts: Sequence[str] = (),
        join_token_id: str = "",
        request_id: str | None = None,
    ) -> wire.CreateJoinTokenResponse:
        """Make a join token. Its secret is in this answer and nowhere else.

        Args:
            kind: `trainer`, `server` or `gateway`.
            service: The service that it must join as; empty: any new one.
            ttl: How long it lives; None: 15 minutes.
            uses: How often it can be used.
            hosts: Of a gateway: names and addresses that clients reach it by.
            join_token_id: A slug; empty: one is made up.
            request_id: A UUID to repeat a call by; a repeated call is answered without the secret.

        Raises:
            FailedPrecondition: STATE_CONFLICT if nothing can join this fleet from another machine, or the
                answer with the secret was lost.
        """
        request = wire.CreateJoinTokenRequest(
            request_id=new_request_id(request_id),
            join_token_id=join_token_id,
            kind=ServiceKind.Value(f"SERVICE_KIND_{kind.upper()}"),
            service=global_name(service, collection="services") if service else "",
            uses=uses,
            hosts=hosts,
        )
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        response = await self._connection.unary(self._stub.CreateJoinToken, request)
        if not response.secret and request_id is None:
            # Our own second try was answered, because the answer to the first was lost.
            raise failure(
                Reason.STATE_CONFLICT,
                f"{response.join_token.name} was made, but its secret was lost on the way.",
                hint="Make another one.",
                metadata={"token": response.join_token.name},
            )
        return response

    async def list(self, *, limit: int | None = None) -> tuple[wire.JoinToken, ...]:
        """Return those that can still be used, by name, without secrets."""

        async def page(size: int, token: str) -> tuple[Sequence[wire.JoinToken], str]:
            request = wire.ListJoinTokensRequest(page_size=size, page_token=token)
            response = await self._connection.unary(self._stub.ListJoinTokens, request)
            return response.join_tokens, response.next_page_token

        return await all_pages(page, limit=limit)

    async def revoke(self, name: str, *, allow_missing: bool = False, request_id: str | None = None) -> None:
        """End a join token at once; services that joined with it stay.

        Raises:
            NotFound: TOKEN_NOT_FOUND.
        """
        request = wire.RevokeJoinTokenRequest(
            request_id=new_request_id(request_id),
            name=global_name(name, collection="joinTokens"),
            allow_missing=allow_missing,
        )
        await self._connection.unary(self._stub.RevokeJoinToken, request)
