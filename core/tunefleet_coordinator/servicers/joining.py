"""The joining methods of FleetService: tokens, certificates, and who may speak for whom."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import Connection

from tunefleet.fleet.v1 import fleet_service_pb2 as pb
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind, ServiceState
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.names import check_id, fresh_id
from tunefleet_coordinator.requests import request_of
from tunefleet_coordinator.security import MemberBook, Principal, current_principal, member, token_digest
from tunefleet_coordinator.servicers.pages import page_of
from tunefleet_coordinator.sessions import Sessions
from tunefleet_coordinator.store.members import (
    CertificateRow,
    JoinTokenRow,
    add_certificate,
    all_certificates,
    all_join_tokens,
    delete_join_token,
    insert_join_token,
    join,
    remove_certificates,
    service_exists,
)
from tunefleet_coordinator.tls import FleetTls
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import World
from tunefleet_core.timestamps import timestamp_of

if TYPE_CHECKING:  # it imports `cryptography`, which a fleet without TLS does without
    from tunefleet_coordinator.security.authority import IssuedCertificate, RequestedKey

    _Change: TypeAlias = Callable[[Connection], tuple[IssuedCertificate, CertificateRow]]

__all__ = ["JoinDesk", "JoinPlace"]

_USUAL_SECONDS = 15 * 60.0
_LONGEST_SECONDS = 30 * 86_400.0
_MOST_USES = 1000
_LOOK_SECONDS = 0.2
_KINDS: dict[int, str] = {
    ServiceKind.SERVICE_KIND_TRAINER: "trainer",
    ServiceKind.SERVICE_KIND_SERVER: "server",
    ServiceKind.SERVICE_KIND_GATEWAY: "gateway",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlace:
    """Where services of other machines are taken in.

    Attributes:
        tls: Issues their certificates.
        service_address: Their listener, as other machines reach it.
        user_address: The listener for people, as other machines reach it.
        blob_address: The blobs process's listener for them; empty: there is none.
        certificate_life: How long a certificate is good.
    """

    tls: FleetTls
    service_address: str
    user_address: str
    blob_address: str
    certificate_life: timedelta


class JoinDesk:
    """Takes services of other machines in, and out; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, sessions: Sessions, book: MemberBook, place: JoinPlace | None) -> None:
        self._kernel = kernel
        self._sessions = sessions
        self._book = book
        self._place = place
        self._is_loaded = False

    async def load(self) -> None:
        """Fill the book from the store, once, before calls are answered."""
        store = self._kernel.store
        for row in await self._kernel.read(store.read, all_certificates):
            self._book.add(row.sha256, _principal(row))
        self._is_loaded = True

    def artifact_store(self, principal: Principal) -> str:
        """Return where a service's artifacts lie; empty: in the store's folder, on this machine."""
        if not principal.service or self._place is None:
            return ""
        return f"grpcs://{self._place.blob_address}"

    def admit(self, service: Service) -> None:
        """Refuse a caller that attaches as another service than it is.

        Raises:
            TunefleetError: PERMISSION_DENIED; SERVICE_EXISTS for a process of this machine.
        """
        principal = current_principal()
        principal.require_service(service.name)
        if principal.kind not in (0, service.kind):
            raise TunefleetError(
                Reason.PERMISSION_DENIED,
                f"{principal.service} joined as a {_KINDS[principal.kind]}, and as nothing else.",
                hint="Join again, with a token of the other kind and another name.",
                metadata={"principal": principal.name},
            )
        if not principal.service and self._book.has(service.name):
            raise service_exists(service.name)

    async def create_token(self, request: pb.CreateJoinTokenRequest) -> pb.CreateJoinTokenResponse:
        """Make a join token; a repeated request is answered without the secret."""
        self._require_place()
        secret = f"tfj_{secrets.token_urlsafe(32)}"
        row = self._token_row(request, token_digest(secret))
        asked = request_of(request, "CreateJoinToken")
        store = self._kernel.store
        known = await self._kernel.write(store.write, insert_join_token, row, asked)
        if known is not None:
            return pb.CreateJoinTokenResponse(join_token=_view(known))
        return pb.CreateJoinTokenResponse(join_token=_view(row), secret=secret)

    async def list_tokens(self, request: pb.ListJoinTokensRequest) -> pb.ListJoinTokensResponse:
        """List the join tokens that can still be used."""
        now = self._kernel.moment().wall
        rows = await self._kernel.read(self._kernel.store.read, all_join_tokens)
        living = [row for row in rows if row.uses_left and now < row.expire_time]
        page = page_of(living, request, lambda row: (row.token_id,))
        return pb.ListJoinTokensResponse(
            join_tokens=[_view(row) for row in page.items], next_page_token=page.next_page_token
        )

    async def revoke_token(self, request: pb.RevokeJoinTokenRequest) -> pb.RevokeJoinTokenResponse:
        """End a join token."""
        collection, _, token_id = request.name.partition("/")
        if collection != "joinTokens" or not token_id:
            raise TunefleetError.field("name", f"'{request.name}' is not of the form joinTokens/{{token}}")
        asked = request_of(request, "RevokeJoinToken")
        at = self._kernel.moment().wall

        def delete(connection: Connection) -> None:
            delete_join_token(connection, token_id, asked, allow_missing=request.allow_missing, at=at)

        await self._kernel.write(self._kernel.store.write, delete)
        return pb.RevokeJoinTokenResponse()

    async def join(self, request: pb.JoinRequest) -> pb.JoinResponse:
        """Take a service in."""
        if not self._is_loaded:
            raise TunefleetError(
                Reason.UNAVAILABLE, "The coordinator is starting.", hint="Try again in a moment."
            )
        place = self._require_place()
        if request.kind not in _KINDS:
            raise TunefleetError.field("kind", "must be trainer, server or gateway")
        service = _service_name(request.service, "service")
        key = await self._requested(request.certificate_request)
        await self._require_free(service)
        digest = token_digest(request.secret)
        at = self._kernel.moment().wall
        loop = asyncio.get_running_loop()

        def take_in(connection: Connection) -> tuple[IssuedCertificate, CertificateRow]:
            token = join(connection, digest, service=service, kind=request.kind, key_sha256=key.sha256, at=at)
            return self._issue(connection, key, service, token.kind, token.hosts)

        issued, row = await self._kernel.write(self._written, take_in, loop)
        return pb.JoinResponse(
            service=service,
            certificate=issued.pem,
            authority=place.tls.authority.pem.decode(),
            service_address=place.service_address,
            user_address=place.user_address,
            expire_time=timestamp_of(issued.expire_time),
            hosts=row.hosts.split(),
        )

    async def renew(self, request: pb.RenewCertificateRequest) -> pb.RenewCertificateResponse:
        """Give a service another certificate, good for the same."""
        principal = current_principal()
        self._require_place()
        if not principal.service:
            raise TunefleetError.field(
                "certificate_request", "is for services of other machines; this one came with a token"
            )
        key = await self._requested(request.certificate_request)

        def give(connection: Connection) -> tuple[IssuedCertificate, CertificateRow]:
            rows = [row for row in all_certificates(connection) if row.service == principal.service]
            if not rows:  # removed since the call began
                raise TunefleetError(
                    Reason.CERTIFICATE_INVALID,
                    f"{principal.service} was removed from the fleet.",
                    hint="Join again with a new token: tunefleet fleet tokens create",
                )
            return self._issue(connection, key, principal.service, principal.kind, rows[-1].hosts)

        issued, _ = await self._kernel.write(self._written, give, asyncio.get_running_loop())
        return pb.RenewCertificateResponse(
            certificate=issued.pem, expire_time=timestamp_of(issued.expire_time)
        )

    async def revoke(self, service: str) -> bool:
        """End certificates and session of a service of another machine, and wait until it is LOST.

        Returns:
            Whether that was all: it is of another machine, and has never attached.
        """
        if not self._book.has(service):
            return False
        loop = asyncio.get_running_loop()
        await self._kernel.write(self._revoked, service, loop)
        error = TunefleetError(
            Reason.CERTIFICATE_INVALID,
            f"{service} was removed from the fleet.",
            hint="Join again with a new token: tunefleet fleet tokens create",
        )
        self._sessions.end(service, error)

        def holds_on(world: World) -> bool:
            row = world.service(service)
            return row is not None and (
                row.state != ServiceState.SERVICE_STATE_LOST or bool(world.attempts_of_service(service))
            )

        while await self._kernel.observe(holds_on):
            await asyncio.sleep(_LOOK_SECONDS)
        return await self._kernel.observe(lambda world: world.service(service)) is None

    # In the writer thread, store and book together, as for API tokens.

    def _issue(
        self, connection: Connection, key: RequestedKey, service: str, kind: int, hosts: str
    ) -> tuple[IssuedCertificate, CertificateRow]:
        place = self._require_place()
        issued = place.tls.authority.issue_service(
            key, service, life=place.certificate_life, names=hosts.split()
        )
        row = CertificateRow(
            sha256=issued.sha256,
            service=service,
            kind=kind,
            key_sha256=key.sha256,
            hosts=hosts,
            create_time=self._kernel.moment().wall,
            expire_time=issued.expire_time,
        )
        add_certificate(connection, row)
        return issued, row

    def _written(
        self, change: _Change, loop: asyncio.AbstractEventLoop
    ) -> tuple[IssuedCertificate, CertificateRow]:
        issued, row = self._kernel.store.write(change)
        self._book.add(row.sha256, _principal(row))
        loop.call_soon_threadsafe(self._sessions.tokens_changed)
        return issued, row

    def _revoked(self, service: str, loop: asyncio.AbstractEventLoop) -> None:
        self._kernel.store.write(remove_certificates, service)
        self._book.remove(service)
        loop.call_soon_threadsafe(self._sessions.tokens_changed)

    async def _requested(self, request_pem: str) -> RequestedKey:
        from tunefleet_coordinator.security.authority import RequestedKey

        return await asyncio.to_thread(RequestedKey.read, request_pem)

    async def _require_free(self, service: str) -> None:
        """Refuse the name of a service of this machine that is heard from."""
        row = await self._kernel.observe(lambda world: world.service(service))
        is_lost = row is None or row.state == ServiceState.SERVICE_STATE_LOST
        if not is_lost and not self._book.has(service):
            raise service_exists(service)

    def _token_row(self, request: pb.CreateJoinTokenRequest, digest: str) -> JoinTokenRow:
        if request.kind not in _KINDS:
            raise TunefleetError.field("kind", "must be trainer, server or gateway")
        if request.hosts and request.kind != ServiceKind.SERVICE_KIND_GATEWAY:
            raise TunefleetError.field("hosts", "is for gateways: nobody dials the others")
        if any(not host or len(host.split()) != 1 for host in request.hosts):
            raise TunefleetError.field("hosts", "must be names or addresses")
        if not 0 <= request.uses <= _MOST_USES:
            raise TunefleetError.field("uses", f"must be from 1 to {_MOST_USES}")
        if request.service and request.uses > 1:
            raise TunefleetError.field("uses", "must be 1 for a token of one service")
        seconds = _USUAL_SECONDS
        if request.HasField("ttl"):
            seconds = request.ttl.seconds + request.ttl.nanos / 1e9
        if not 0 < seconds <= _LONGEST_SECONDS:
            raise TunefleetError.field("ttl", "must be more than nothing and at most 30 days")
        now = self._kernel.moment().wall
        kind = _KINDS[request.kind]
        return JoinTokenRow(
            token_id=check_id(request.join_token_id, "join_token_id")
            if request.join_token_id
            else fresh_id(kind),
            digest=digest,
            kind=request.kind,
            service=_service_name(request.service, "service") if request.service else "",
            hosts=" ".join(request.hosts),
            uses_left=request.uses or 1,
            create_time=now,
            expire_time=now + seconds,
            creator=current_principal().name,
        )

    def _require_place(self) -> JoinPlace:
        if self._place is None:
            raise TunefleetError(
                Reason.STATE_CONFLICT,
                "This fleet listens on its own machine alone, so nothing can join it from another.",
                hint="Start it with an address that others reach: tunefleet up --host ADDRESS",
            )
        return self._place


def _service_name(name: str, field: str) -> str:
    collection, _, service_id = name.partition("/")
    if collection != "services" or not service_id:
        raise TunefleetError.field(field, f"'{name}' is not of the form services/{{service}}")
    check_id(service_id, field)
    return name


def _principal(row: CertificateRow) -> Principal:
    return member(service=row.service, kind=row.kind, expire_time=row.expire_time)


def _view(row: JoinTokenRow) -> pb.JoinToken:
    return pb.JoinToken(
        name=f"joinTokens/{row.token_id}",
        kind=ServiceKind.ValueType(row.kind),
        service=row.service,
        uses_left=row.uses_left,
        create_time=timestamp_of(row.create_time),
        expire_time=timestamp_of(row.expire_time),
        creator=row.creator,
        hosts=row.hosts.split(),
    )
