"""Services of other machines: the tokens they join with, and the certificates they were given.

Like API tokens they live in the store alone. A certificate counts only while its row is here, so
that to revoke one is to remove a row.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from sqlalchemy import Column, Connection, Float, Index, Integer, Table, Text, delete, select, update

from tunefleet_coordinator.store import tables
from tunefleet_coordinator.store.answers import answered, remember
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Request

__all__ = [
    "CertificateRow",
    "JoinTokenRow",
    "add_certificate",
    "all_certificates",
    "all_join_tokens",
    "delete_join_token",
    "insert_join_token",
    "join",
    "remove_certificates",
]

_KEPT_SECONDS = 7 * 86_400.0
"""A join token that has ended is told apart from one that never was for so long."""

join_tokens = Table(
    "join_tokens",
    tables.metadata,
    Column("token_id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("service", Text, nullable=False),
    Column("hosts", Text, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("create_time", Float, nullable=False),
    Column("expire_time", Float, nullable=False),
    Column("creator", Text, nullable=False),
    Index("join_tokens_by_digest", "digest", unique=True),
    sqlite_with_rowid=False,
)

certificates = Table(
    "certificates",
    tables.metadata,
    Column("sha256", Text, primary_key=True),
    Column("service", Text, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("key_sha256", Text, nullable=False),
    Column("hosts", Text, nullable=False),
    Column("create_time", Float, nullable=False),
    Column("expire_time", Float, nullable=False),
    Index("certificates_by_service", "service"),
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTokenRow:
    """A join token. Key: token_id. Only `uses_left` changes."""

    token_id: str
    digest: str
    """SHA-256 of the secret, hex."""
    kind: int
    """A `ServiceKind`."""
    service: str
    """`services/{service}`; empty: any new one."""
    hosts: str
    """What its certificate may be dialled by, divided by spaces."""
    uses_left: int
    create_time: float
    expire_time: float
    creator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRow:
    """A certificate of a service. Key: sha256. Never changes."""

    sha256: str
    """Of the certificate, hex."""
    service: str
    kind: int
    key_sha256: str
    """Of its public key, hex."""
    hosts: str
    create_time: float
    expire_time: float


def insert_join_token(
    connection: Connection, row: JoinTokenRow, request: Request | None
) -> JoinTokenRow | None:
    """Add a join token, once per request; those that ended long ago go.

    Returns:
        None if it was added; the token of an equal request before.

    Raises:
        TunefleetError: TOKEN_EXISTS, REQUEST_ID_REUSED, TOKEN_NOT_FOUND if the token of an equal
            request was revoked meanwhile.
    """
    known = answered(connection, request)
    if known is not None:
        there = _token(connection, join_tokens.c.token_id == known)
        if there is None:
            raise join_token_not_found(known)
        return there
    connection.execute(
        delete(join_tokens).where(join_tokens.c.expire_time <= row.create_time - _KEPT_SECONDS)
    )
    if _token(connection, join_tokens.c.token_id == row.token_id) is not None:
        raise TunefleetError(
            Reason.TOKEN_EXISTS,
            f"There is a join token '{row.token_id}' already.",
            hint="Pick another id, or revoke that one: tunefleet fleet tokens revoke",
            metadata={"token_id": row.token_id},
        )
    connection.execute(join_tokens.insert().values(_values(row)))
    remember(connection, request, row.token_id, row.create_time)
    return None


def all_join_tokens(connection: Connection) -> list[JoinTokenRow]:
    """Return every join token, by id, also those that have ended."""
    found = connection.execute(select(join_tokens).order_by(join_tokens.c.token_id)).mappings()
    return [JoinTokenRow(**dict(row)) for row in found]


def delete_join_token(
    connection: Connection, token_id: str, request: Request | None, *, allow_missing: bool, at: float
) -> None:
    """Remove a join token. Raises TOKEN_NOT_FOUND, REQUEST_ID_REUSED."""
    if answered(connection, request) is not None:
        return
    removed = connection.execute(delete(join_tokens).where(join_tokens.c.token_id == token_id)).rowcount
    if not removed and not allow_missing:
        raise join_token_not_found(token_id)
    remember(connection, request, token_id, at)


def join(
    connection: Connection, digest: str, *, service: str, kind: int, key_sha256: str, at: float
) -> JoinTokenRow:
    """Use a join token once, and return it. A key that has joined already uses nothing.

    Raises:
        TunefleetError: TOKEN_INVALID, SERVICE_EXISTS if the name has another key, PERMISSION_DENIED if
            the token is for something else.
    """
    row = _token(connection, join_tokens.c.digest == digest)
    if row is None:
        raise _refused("Nobody knows this join token: it was revoked, or is of another fleet.")
    if at >= row.expire_time:
        raise _refused(f"Join token '{row.token_id}' has ended: its time is over.")
    if kind != row.kind or row.service not in ("", service):
        raise TunefleetError(
            Reason.PERMISSION_DENIED,
            f"Join token '{row.token_id}' is for another kind or name of service.",
            hint="Join as what it was made for, or ask for another: tunefleet fleet tokens create",
            metadata={"token_id": row.token_id, "service": service},
        )
    theirs = connection.execute(
        select(certificates.c.key_sha256).where(
            certificates.c.service == service, certificates.c.expire_time > at
        )
    ).scalars()
    keys = set(theirs)
    if key_sha256 in keys:
        return row
    if row.uses_left < 1:
        raise _refused(f"Join token '{row.token_id}' is used up.")
    if keys:
        raise service_exists(service)
    connection.execute(
        update(join_tokens)
        .where(join_tokens.c.token_id == row.token_id)
        .values(uses_left=join_tokens.c.uses_left - 1)
    )
    return row


def add_certificate(connection: Connection, row: CertificateRow) -> None:
    """Add a certificate; those whose time is over go."""
    connection.execute(delete(certificates).where(certificates.c.expire_time <= row.create_time))
    connection.execute(certificates.insert().values(_values(row)))


def all_certificates(connection: Connection) -> list[CertificateRow]:
    """Return every certificate that was not revoked."""
    return [CertificateRow(**dict(row)) for row in connection.execute(select(certificates)).mappings()]


def remove_certificates(connection: Connection, service: str) -> None:
    """Revoke the certificates of a service."""
    connection.execute(delete(certificates).where(certificates.c.service == service))


def service_exists(service: str) -> TunefleetError:
    """Build the error for a name that another service has."""
    short = service.removeprefix("services/")
    return TunefleetError(
        Reason.SERVICE_EXISTS,
        f"There is a service '{short}' already.",
        hint=f"Join under another name (--name), or first: tunefleet fleet remove {short}",
        metadata={"service": service},
    )


def join_token_not_found(token_id: str) -> TunefleetError:
    """Build the error for an id that no join token has."""
    return TunefleetError(
        Reason.TOKEN_NOT_FOUND,
        f"There is no join token '{token_id}'.",
        hint="See those there are: tunefleet fleet tokens list",
        metadata={"token_id": token_id},
    )


def _refused(message: str) -> TunefleetError:
    return TunefleetError(
        Reason.TOKEN_INVALID, message, hint="Ask an operator for a new one: tunefleet fleet tokens create"
    )


def _token(connection: Connection, where: object) -> JoinTokenRow | None:
    found = connection.execute(select(join_tokens).where(where)).mappings().first()  # pyright: ignore[reportArgumentType]  # a clause of this table
    return None if found is None else JoinTokenRow(**dict(found))


def _values(row: JoinTokenRow | CertificateRow) -> dict[str, object]:
    return {item.name: getattr(row, item.name) for item in fields(row)}
