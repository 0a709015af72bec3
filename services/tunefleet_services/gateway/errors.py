"""Refusals in the shape that OpenAI clients parse.

`{"error": {"message", "type", "param", "code"}}`: the `openai` package turns the status
into its exception class and shows the message, so the next step belongs in the message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from aiohttp import web

__all__ = ["ErrorType", "GatewayError", "error_document"]

ErrorType = Literal["invalid_request_error", "authentication_error", "permission_error", "server_error"]


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


def error_document(message: str, *, error_type: ErrorType, code: str, param: str | None = None) -> bytes:
    """Return the JSON of an OpenAI error, on one line."""
    error = {"message": message, "type": error_type, "param": param, "code": code}
    return json.dumps({"error": error}).encode()
