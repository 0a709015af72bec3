"""Refusals in the shape that OpenAI clients parse.

`{"error": {"message", "type", "param", "code"}}`: the `openai` package turns the status
into its exception class and shows the message, so the next step belongs in the message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from aiohttp import web

from tunefleet_core.errors import TunefleetError

__all__ = ["ErrorType", "GatewayError", "as_sentences", "error_document", "error_of"]

ErrorType = Literal[
    "invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"
]

_STATUSES: Mapping[str, tuple[int, ErrorType]] = {
    "INVALID_ARGUMENT": (400, "invalid_request_error"),
    "OUT_OF_RANGE": (400, "invalid_request_error"),
    "FAILED_PRECONDITION": (400, "invalid_request_error"),
    "UNIMPLEMENTED": (400, "invalid_request_error"),
    "UNAUTHENTICATED": (401, "authentication_error"),
    "PERMISSION_DENIED": (403, "permission_error"),
    "NOT_FOUND": (404, "invalid_request_error"),
    "ALREADY_EXISTS": (409, "invalid_request_error"),
    "ABORTED": (409, "invalid_request_error"),
    "RESOURCE_EXHAUSTED": (503, "server_error"),
    "UNAVAILABLE": (503, "server_error"),
    "DEADLINE_EXCEEDED": (504, "server_error"),
}
"""What a code of gRPC is over HTTP; any other one is a failure of ours."""


class GatewayError(Exception):
    """A request that the gateway answers itself, with an error.

    Args:
        status: HTTP status.
        message: One sentence of fact, then what to do.
        error_type: OpenAI's class of the error.
        code: One word for programs.
        param: The field of the request that is wrong.
        headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        error_type: ErrorType = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.error_type: ErrorType = error_type
        self.param = param
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """Build the HTTP answer."""
        return web.Response(
            status=self.status,
            body=error_document(self.message, error_type=self.error_type, code=self.code, param=self.param),
            content_type="application/json",
            headers=self.headers,
        )


def error_of(error: TunefleetError) -> GatewayError:
    """Return what the coordinator said, or one of its checks, as an error of this door."""
    status, error_type = _STATUSES.get(error.code, (500, "server_error"))
    return GatewayError(
        status,
        as_sentences(error.message, error.hint),
        code=error.reason.lower(),
        error_type=error_type,
        param=error.metadata.get("field"),
        headers={"Retry-After": "1"} if status == 503 else None,
    )


def as_sentences(message: str, hint: str) -> str:
    """Return what is wrong and what to do about it as one text; a refused field ends without a full stop."""
    end = "." if message and hint and message[-1] not in ".!?:" else ""
    return f"{message}{end} {hint}".strip()


def error_document(message: str, *, error_type: ErrorType, code: str, param: str | None = None) -> bytes:
    """Return the JSON of an OpenAI error, on one line."""
    error = {"message": message, "type": error_type, "param": param, "code": code}
    return json.dumps({"error": error}).encode()
