"""How a call is made: a token, a deadline, a few retries where they are safe, typed errors.

A call is made again only if both hold. The failure says "not delivered, or ask
again": UNAVAILABLE without an answer of ours, or with the reason UNAVAILABLE
(not, for one, HUB_UNREACHABLE, which is an answer). And a second arrival is
harmless: reads, and mutations with a request id, always with the same bytes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from tunefleet_client.channels import Channels
from tunefleet_client.errors import failure, typed
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import error_from_rpc, explain_handshake

__all__ = ["DEADLINE_SECONDS", "RESOLVE_DEADLINE_SECONDS", "Backoff", "Connection", "is_handshake"]

DEADLINE_SECONDS = 30.0
RESOLVE_DEADLINE_SECONDS = 120.0
"""Creating and planning read model folders and audit rows on a trainer."""

_HANDSHAKE = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "handshake failed", "Handshake failed")
"""What gRPC's details say when TLS, and not the network, is what failed."""

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits between tries: doubling, bounded, with full jitter.

    Attributes:
        first_seconds: Longest first wait.
        most_seconds: Longest wait of all.
        tries: Calls in all, for unary calls.
    """

    first_seconds: float = 0.1
    most_seconds: float = 2.0
    tries: int = 4
    random: Callable[[], float] = field(default=random.random)

    def seconds(self, failures: int) -> float:
        """Return the wait after this many failures in a row, from 1."""
        longest = min(self.most_seconds, self.first_seconds * 2.0 ** min(failures - 1, 16))
        # Never below half, so that a lucky draw does not hammer a starting server.
        return longest * (0.5 + 0.5 * self.random())


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A process of the fleet, and the token that goes with every call to it."""

    address: str
    token: str
    channels: Channels
    backoff: Backoff = Backoff()
    peer: str = "The coordinator"

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel to it."""
        return self.channels.to(self.address)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that every call carries."""
        return (("authorization", f"Bearer {self.token}"),)

    def to(self, address: str, *, peer: str) -> Connection:
        """Return a connection to another process of the same fleet.

        Args:
            address: `host:port`, as the coordinator told it.
            peer: What it is, as a message begins: `The gateway`.
        """
        return replace(self, address=address, peer=peer)

    def failure(self, error: grpc.aio.AioRpcError) -> TunefleetError:
        """Return what a failed call means, of the class of its code."""
        label = f"{self.peer} at {self.address}"
        if is_handshake(error):
            return failure(
                Reason.UNAVAILABLE,
                f"{label} answers, but not with a certificate that is trusted here.",
                hint="Pass the certificate authority of that fleet (ca, or TUNEFLEET_CA).",
                metadata={"peer": label, "details": error.details() or ""},
            )
        return typed(error_from_rpc(error, label))

    async def _explained(self, error: grpc.aio.AioRpcError, known: TunefleetError) -> TunefleetError:
        """Return what is known, or what is wrong with the handshake if there was no answer at all."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE or known.reason is not Reason.UNAVAILABLE:
            return known
        label = f"{self.peer} at {self.address}"
        cause = await asyncio.to_thread(explain_handshake, self.address, label, self.channels.authority)
        return known if cause is None else typed(cause)

    def raise_if_closed_beneath(self) -> None:
        """Raise the error of a closed client if that, and not its caller, has cancelled a call."""
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            self.channels.require_open()

    async def unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> _Response:
        """Call a unary method.

        Args:
            method: Of a stub on `channel`.
            request: Its request, with a request id if it changes something.
            deadline_seconds: For all tries together.

        Raises:
            TunefleetError: What the other side answered, UNAVAILABLE if it did not
                answer, TIME_LIMIT past the deadline.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_seconds
        tries = self.backoff.tries if _is_harmless_twice(request) else 1
        failures = 0
        while True:
            self.channels.require_open()
            try:
                left = max(0.0, end - loop.time())
                return await method(request, timeout=left, metadata=self.metadata)
            except asyncio.CancelledError:
                self.raise_if_closed_beneath()
                raise
            except grpc.aio.AioRpcError as error:
                failures += 1
                wait = self.backoff.seconds(failures)
                is_last = failures >= tries or loop.time() + wait >= end
                known = self.failure(error)
                if is_last or not _invites_repeating(error, known):
                    raise await self._explained(error, known) from error
                await asyncio.sleep(wait)


def _is_harmless_twice(request: Message) -> bool:
    """Return whether a second arrival changes nothing: a read, or a request with an id.

    By the grammar of the API every request that changes something has the field.
    """
    return "request_id" not in request.DESCRIPTOR.fields_by_name or bool(getattr(request, "request_id"))  # noqa: B009 - a field of some messages


def _invites_repeating(error: grpc.aio.AioRpcError, known: TunefleetError) -> bool:
    is_away = error.code() is grpc.StatusCode.UNAVAILABLE and known.reason is Reason.UNAVAILABLE
    return is_away and not is_handshake(error)


def is_handshake(error: grpc.aio.AioRpcError) -> bool:
    """Return whether TLS failed: no further try will mend that."""
    details = error.details() or ""
    return error.code() is grpc.StatusCode.UNAVAILABLE and any(word in details for word in _HANDSHAKE)
