"""Calls of the contract, the same for a servicer object and for a server on a socket.

A failed call is a `Refused` with what the caller would see on the wire, so that a test
says the same over every transport.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tunefleet.backend.v1 import backend_service_pb2_grpc as backend_grpc
from tunefleet_core.errors import STATUS_METADATA_KEY, from_exception, status_from_error

__all__ = ["Calls", "ObjectCalls", "Refused", "WireCalls"]

CALL_SECONDS = 120.0


class Refused(Exception):
    """A call that failed, as its caller sees it.

    Attributes:
        code: Canonical gRPC code by name.
        reasons: Reason of every ErrorInfo of domain `tunefleet`; a right answer has one.
        message: One sentence.
        metadata: The metadata of the first ErrorInfo.
    """

    def __init__(self, code: str, message: str, status: status_pb2.Status | None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.reasons: list[str] = []
        self.metadata: dict[str, str] = {}
        for detail in status.details if status is not None else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == "tunefleet":
                self.reasons.append(info.reason)
                self.metadata = self.metadata or dict(info.metadata)

    def __str__(self) -> str:
        return f"{self.code}/{','.join(self.reasons) or 'no reason'}: {self.message}"


class Calls(Protocol):
    """One way to reach a backend."""

    async def unary(self, method: str, request: Message) -> Any:
        """Call a method and return its response. Raises Refused."""
        ...

    def stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        """Call a streaming method. Raises Refused while it is read."""
        ...


class WireCalls:
    """Calls over a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = backend_grpc.BackendServiceStub(channel)

    async def unary(self, method: str, request: Message) -> Any:
        """Call a method."""
        try:
            return await getattr(self._stub, method)(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from None

    async def stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        """Call a streaming method; leaving the loop cancels the call."""
        call = getattr(self._stub, method)(request, timeout=CALL_SECONDS)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from None
        finally:
            call.cancel()


class ObjectCalls:
    """Calls of a servicer's methods, mapped as the error interceptor maps them."""

    def __init__(self, servicer: object) -> None:
        self._servicer: Any = servicer

    async def unary(self, method: str, request: Message) -> Any:
        """Call a method."""
        try:
            return await getattr(self._servicer, method)(request, _Context())
        except Exception as error:
            raise _mapped(error) from error

    async def stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        """Call a streaming method."""
        try:
            async for response in getattr(self._servicer, method)(request, _Context()):
                yield response
        except Exception as error:
            raise _mapped(error) from error


class _Context:
    """As much of a call's context as a servicer needs to refuse a call by itself."""

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> NoReturn:
        raise Refused(code.name, details, _status(trailing_metadata))


def _mapped(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    typed = from_exception(error)
    return Refused(typed.code, typed.message, status_from_error(typed))


def _refused(error: grpc.aio.AioRpcError) -> Refused:
    metadata = tuple((str(key), value) for key, value in error.trailing_metadata() or ())
    return Refused(error.code().name, error.details() or "", _status(metadata))


def _status(metadata: tuple[tuple[str, str | bytes], ...]) -> status_pb2.Status | None:
    for key, value in metadata:
        if key == STATUS_METADATA_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return None
