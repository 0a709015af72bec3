"""API tokens: who may call this fleet, made and ended by an admin."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from tunefleet.fleet.v1 import fleet_service_pb2 as wire
from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from tunefleet_client.calls import Connection
from tunefleet_client.errors import failure
from tunefleet_client.names import global_name
from tunefleet_client.pages import all_pages
from tunefleet_client.requests import new_request_id
from tunefleet_core.errors import Reason

if TYPE_CHECKING:
    from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub

__all__ = ["Tokens"]


class Tokens:
    """The API tokens of the fleet, but for the two in the state folder. Raises TunefleetError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: FleetServiceAsyncStub = FleetServiceStub(connection.channel)

    async def create(
        self,
        token_id: str,
        *,
        role: str = "user",
        project: str = "",
        ttl: timedelta | None = None,
        request_id: str | None = None,
    ) -> wire.CreateTokenResponse:
        """Make a token. Its secret is in this answer and nowhere else.

        Args:
            token_id: A slug; it names the holder in what they make.
            role: `admin`, `operator`, `user` or `viewer`.
            project: The project it is bound to; empty: all.
            ttl: How long it lives; None: until it is revoked.
            request_id: A UUID to repeat a call by; a repeated call is answered without the secret.

        Raises:
            AlreadyExists: TOKEN_EXISTS.
            FailedPrecondition: STATE_CONFLICT if the answer with the secret was lost.
        """
        request = wire.CreateTokenRequest(
            request_id=new_request_id(request_id), token_id=token_id, role=role, project=project
        )
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        response = await self._connection.unary(self._stub.CreateToken, request)
        if not response.secret and request_id is None:
            # Our own second try was answered, because the answer to the first was lost.
            raise failure(
                Reason.STATE_CONFLICT,
                f"Token '{token_id}' was made, but its secret was lost on the way.",
                hint=f"tunefleet tokens revoke {token_id}, then make it again.",
                metadata={"token": response.token.name},
            )
        return response

    async def list(self, *, limit: int | None = None) -> tuple[wire.Token, ...]:
        """Return the tokens by name, without secrets."""

        async def page(size: int, token: str) -> tuple[Sequence[wire.Token], str]:
            request = wire.ListTokensRequest(page_size=size, page_token=token)
            response = await self._connection.unary(self._stub.ListTokens, request)
            return response.tokens, response.next_page_token

        return await all_pages(page, limit=limit)

    async def revoke(self, name: str, *, allow_missing: bool = False, request_id: str | None = None) -> None:
        """End a token at once: `ada` or `tokens/ada`.

        Raises:
            NotFound: TOKEN_NOT_FOUND.
        """
        request = wire.RevokeTokenRequest(
            request_id=new_request_id(request_id),
            name=global_name(name, collection="tokens"),
            allow_missing=allow_missing,
        )
        await self._connection.unary(self._stub.RevokeToken, request)
