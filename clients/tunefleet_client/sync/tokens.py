"""API tokens: who may call this fleet, made and ended by an admin.

Sync face of `tunefleet_client.tokens`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tunefleet.fleet.v1 import fleet_service_pb2 as wire
from tunefleet_client import tokens as _async
from tunefleet_client.sync.session import Session

__all__ = ["Tokens"]


class Tokens:
    """The API tokens of the fleet, but for the two in the state folder. Raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Tokens) -> None:
        self._session = session
        self._inner = inner

    def create(
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
        return self._session.call(
            self._inner.create(token_id, role=role, project=project, ttl=ttl, request_id=request_id)
        )

    def list(self, *, limit: int | None = None) -> tuple[wire.Token, ...]:
        """Return the tokens by name, without secrets."""
        return self._session.call(self._inner.list(limit=limit))

    def revoke(self, name: str, *, allow_missing: bool = False, request_id: str | None = None) -> None:
        """End a token at once: `ada` or `tokens/ada`.

        Raises:
            NotFound: TOKEN_NOT_FOUND.
        """
        return self._session.call(
            self._inner.revoke(name, allow_missing=allow_missing, request_id=request_id)
        )
