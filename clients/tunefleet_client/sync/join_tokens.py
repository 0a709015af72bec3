"""Join tokens: with which processes on other machines become services of the fleet.

Sync face of `tunefleet_client.join_tokens`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from tunefleet.fleet.v1 import fleet_service_pb2 as wire
from tunefleet_client import join_tokens as _async
from tunefleet_client.sync.session import Session

__all__ = ["JoinTokens"]


class JoinTokens:
    """The join tokens of the fleet. Raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.JoinTokens) -> None:
        self._session = session
        self._inner = inner

    def create(
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
        return self._session.call(
            self._inner.create(
                kind,
                service=service,
                ttl=ttl,
                uses=uses,
                hosts=hosts,
                join_token_id=join_token_id,
                request_id=request_id,
            )
        )

    def list(self, *, limit: int | None = None) -> tuple[wire.JoinToken, ...]:
        """Return those that can still be used, by name, without secrets."""
        return self._session.call(self._inner.list(limit=limit))

    def revoke(self, name: str, *, allow_missing: bool = False, request_id: str | None = None) -> None:
        """End a join token at once; services that joined with it stay.

        Raises:
            NotFound: TOKEN_NOT_FOUND.
        """
        return self._session.call(
            self._inner.revoke(name, allow_missing=allow_missing, request_id=request_id)
        )
