"""The token methods of FleetService: rows in the store, and the book that calls are checked by."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import partial

from google.protobuf.duration_pb2 import Duration
from sqlalchemy import Connection

from tunefleet.fleet.v1 import fleet_service_pb2 as pb
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.names import check_id
from tunefleet_coordinator.requests import request_of
from tunefleet_coordinator.security import Principal, Role, TokenBook, current_principal, token_digest
from tunefleet_coordinator.servicers.pages import page_of
from tunefleet_coordinator.sessions import Sessions
from tunefleet_coordinator.store.tokens import (
    TokenRow,
    all_tokens,
    delete_token,
    insert_token,
    token_not_found,
)
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Request
from tunefleet_core.timestamps import timestamp_of

__all__ = ["TokenDesk"]

_BUILTIN = ("admin", "service")  # the names of the tokens in the state folder
_LONGEST_SECONDS = 100 * 366 * 86_400
_ROLES = {role.name.lower(): role for role in Role if role is not Role.SERVICE}


class TokenDesk:
    """Makes, lists and revokes API tokens; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, sessions: Sessions, book: TokenBook) -> None:
        self._kernel = kernel
        self._sessions = sessions
        self._book = book

    async def load(self) -> None:
        """Fill the book from the store, once, before calls are answered."""
        store = self._kernel.store
        for row in await self._kernel.read(store.read, all_tokens):
            self._book.add(row.digest, _principal(row))

    async def create(self, request: pb.CreateTokenRequest) -> pb.CreateTokenResponse:
        """Make a token; a repeated request is answered without the secret."""
        secret = f"tf_{secrets.token_urlsafe(32)}"
        row = self._row(request, token_digest(secret))
        asked = request_of(request, "CreateToken")
        known = await self._kernel.write(self._insert, row, asked, asyncio.get_running_loop())
        if known is not None:
            return pb.CreateTokenResponse(token=_view(known))
        return pb.CreateTokenResponse(token=_view(row), secret=secret)

    async def list(self, request: pb.ListTokensRequest) -> pb.ListTokensResponse:
        """List the tokens that the caller may see: those of its project, if it is bound to one."""
        now = self._kernel.moment().wall
        project = _bound_project(current_principal())
        rows = [
            row
            for row in await self._kernel.read(self._kernel.store.read, all_tokens)
            if project in ("", row.project) and (row.expire_time is None or now < row.expire_time)
        ]
        page = page_of(rows, request, lambda row: (row.token_id,))
        return pb.ListTokensResponse(
            tokens=[_view(row) for row in page.items], next_page_token=page.next_page_token
        )

    async def revoke(self, request: pb.RevokeTokenRequest) -> pb.RevokeTokenResponse:
        """End a token: for calls that begin after this one was answered, and soon for open streams."""
        collection, _, token_id = request.name.partition("/")
        if collection != "tokens" or not token_id:
            raise TunefleetError.field("name", f"'{request.name}' is not of the form tokens/{{token}}")
        if token_id in _BUILTIN:
            raise _builtin(token_id)
        loop = asyncio.get_running_loop()
        delete = partial(
            delete_token,
            token_id=token_id,
            request=request_of(request, "RevokeToken"),
            project=_bound_project(current_principal()),
            allow_missing=request.allow_missing,
            at=self._kernel.moment().wall,
        )
        await self._kernel.write(self._delete, delete, loop)
        return pb.RevokeTokenResponse()

    def _row(self, request: pb.CreateTokenRequest, digest: str) -> TokenRow:
        creator = current_principal()
        if request.role not in _ROLES:
            raise TunefleetError.field("role", f"must be one of {', '.join(_ROLES)}, not '{request.role}'")
        project = request.project and check_id(request.project, "project")
        bound = _bound_project(creator)
        if bound and project != bound:
            raise TunefleetError(
                Reason.PERMISSION_DENIED,
                f"{creator.name} is bound to project '{bound}' and makes tokens of that project only.",
                hint=f"Set project to '{bound}', or ask an admin of all projects.",
                metadata={"principal": creator.name, "project": bound},
            )
        token_id = check_id(request.token_id, "token_id")
        if token_id in _BUILTIN:
            raise TunefleetError(
                Reason.TOKEN_EXISTS,
                f"'{token_id}' is the token in the state folder.",
                hint="Pick another id.",
                metadata={"token_id": token_id},
            )
        now = self._kernel.moment().wall
        return TokenRow(
            token_id=token_id,
            digest=digest,
            role=request.role,
            project=project,
            create_time=now,
            expire_time=now + _seconds(request.ttl) if request.HasField("ttl") else None,
            creator=creator.name,
        )

    # In the writer thread, store and book together: a caller that leaves in between must not
    # leave a token in the book that the store has no more, nor a gateway that is not told.

    def _insert(
        self, row: TokenRow, asked: Request | None, loop: asyncio.AbstractEventLoop
    ) -> TokenRow | None:
        known = self._kernel.store.write(insert_token, row, asked)
        if known is None:
            self._book.add(row.digest, _principal(row))
            loop.call_soon_threadsafe(self._sessions.tokens_changed)
        return known

    def _delete(self, delete: Callable[[Connection], str], loop: asyncio.AbstractEventLoop) -> None:
        digest = self._kernel.store.write(delete)
        self._book.remove(digest)
        loop.call_soon_threadsafe(self._sessions.tokens_changed)


def _principal(row: TokenRow) -> Principal:
    return Principal(
        name=row.token_id,
        role=_ROLES[row.role],
        project=row.project or "*",
        expire_time=row.expire_time,
    )


def _bound_project(principal: Principal) -> str:
    return "" if principal.project == "*" else principal.project


def _seconds(ttl: Duration) -> float:
    seconds = ttl.seconds + ttl.nanos / 1e9
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise TunefleetError.field("ttl", "must be more than nothing and less than a hundred years")
    return seconds


def _builtin(token_id: str) -> TunefleetError:
    error = token_not_found(token_id)
    return TunefleetError(
        error.reason,
        f"'{token_id}' is the token in the state folder, not one that was made here.",
        hint=f"Remove {token_id}.token from the state folder and restart the fleet: it gets another.",
        metadata=error.metadata,
    )


def _view(row: TokenRow) -> pb.Token:
    return pb.Token(
        name=f"tokens/{row.token_id}",
        role=row.role,
        project=row.project,
        create_time=timestamp_of(row.create_time),
        expire_time=None if row.expire_time is None else timestamp_of(row.expire_time),
        creator=row.creator,
    )
