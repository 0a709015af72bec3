"""API tokens: who may call. Of a secret only its SHA-256 is kept.

They live in the store alone and not in the deciding core: nothing is decided from them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from sqlalchemy import Column, Connection, Float, Index, Table, Text, delete, select

from tunefleet_coordinator.store import tables
from tunefleet_coordinator.store.answers import answered, remember
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Request

__all__ = ["TokenRow", "all_tokens", "delete_token", "insert_token", "token_not_found"]

tokens = Table(
    "tokens",
    tables.metadata,
    Column("token_id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("create_time", Float, nullable=False),
    Column("expire_time", Float),
    Column("creator", Text, nullable=False),
    Index("tokens_by_digest", "digest", unique=True),
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """An API token. Key: token_id. Never changes."""

    token_id: str
    digest: str
    """SHA-256 of the secret, hex."""
    role: str
    """`admin`, `operator`, `user` or `viewer`."""
    project: str
    """Empty: all projects."""
    create_time: float
    expire_time: float | None
    creator: str


def insert_token(connection: Connection, row: TokenRow, request: Request | None) -> TokenRow | None:
    """Add a token, once per request. A token whose time is over leaves its id free.

    Returns:
        None if it was added; the token of an equal request before, whose secret nobody knows.

    Raises:
        TunefleetError: TOKEN_EXISTS, REQUEST_ID_REUSED, TOKEN_NOT_FOUND if the token of an equal
            request was revoked meanwhile.
    """
    known = answered(connection, request)
    if known is not None:
        there = _one(connection, known)
        if there is None:
            raise token_not_found(known)
        return there
    connection.execute(delete(tokens).where(tokens.c.expire_time <= row.create_time))
    if _one(connection, row.token_id) is not None:
        raise TunefleetError(
            Reason.TOKEN_EXISTS,
            f"There is a token '{row.token_id}' already.",
            hint=f"Pick another id, or revoke that one: tunefleet tokens revoke {row.token_id}",
            metadata={"token_id": row.token_id},
        )
    connection.execute(tokens.insert().values({item.name: getattr(row, item.name) for item in fields(row)}))
    remember(connection, request, row.token_id, row.create_time)
    return None


def all_tokens(connection: Connection) -> list[TokenRow]:
    """Return every token that was not revoked, by id; those whose time is over too."""
    found = connection.execute(select(tokens).order_by(tokens.c.token_id)).mappings()
    return [TokenRow(**dict(row)) for row in found]


def delete_token(
    connection: Connection,
    token_id: str,
    request: Request | None,
    *,
    project: str,
    allow_missing: bool,
    at: float,
) -> str:
    """Remove a token of a project (empty: of any) and return its digest; empty if there was none.

    Raises:
        TunefleetError: TOKEN_NOT_FOUND, REQUEST_ID_REUSED.
    """
    if answered(connection, request) is not None:
        return ""
    row = _one(connection, token_id)
    if row is not None and project not in ("", row.project):
        row = None
    if row is None and not allow_missing:
        raise token_not_found(token_id)
    if row is not None:
        connection.execute(delete(tokens).where(tokens.c.token_id == token_id))
    remember(connection, request, token_id, at)
    return "" if row is None else row.digest


def token_not_found(token_id: str) -> TunefleetError:
    """Build the error for an id that no token has."""
    return TunefleetError(
        Reason.TOKEN_NOT_FOUND,
        f"There is no token '{token_id}'.",
        hint="See the tokens there are: tunefleet tokens list",
        metadata={"token_id": token_id},
    )


def _one(connection: Connection, token_id: str) -> TokenRow | None:
    found = connection.execute(select(tokens).where(tokens.c.token_id == token_id)).mappings().first()
    return None if found is None else TokenRow(**dict(found))
