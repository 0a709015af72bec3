"""Talk to the gateway in OpenAI's dialect, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["Gateway", "trusting"]

_SECONDS_BETWEEN_CHUNKS = 120.0
_REASONS: Mapping[int, Reason] = {
    401: Reason.TOKEN_INVALID,
    403: Reason.PERMISSION_DENIED,
    404: Reason.DEPLOYMENT_NOT_FOUND,
    502: Reason.UNAVAILABLE,
    503: Reason.UNAVAILABLE,
    504: Reason.TIME_LIMIT,
}
_HINTS: Mapping[int, str] = {
    401: "Use the token that tunefleet up wrote.",
    404: "tunefleet deployments list, or tunefleet deploy MODEL --wait",
    502: "tunefleet doctor",
    503: "tunefleet deployments list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The gateway's base URL and the token that is its key.

    Attributes:
        url: `http://host:port`, or with `https`.
        token: API token.
        authority: What its certificate is checked by, PEM; None: what this machine trusts.
    """

    url: str
    token: str
    authority: bytes | None = None

    def complete(
        self, model: str, messages: Sequence[Mapping[str, object]], options: Mapping[str, object]
    ) -> Mapping[str, object]:
        """Return a whole chat completion.

        Raises:
            TunefleetError: What the gateway answered, or UNAVAILABLE.
        """
        body = {"model": model, "messages": messages, **options}
        with closing(self._connection()) as connection:
            return _object(self._post(connection, body).read())

    def stream(
        self, model: str, messages: Sequence[Mapping[str, object]], options: Mapping[str, object]
    ) -> Iterator[str]:
        """Yield the answer as it is generated.

        Raises:
            TunefleetError: What the gateway answered, also in mid-stream, or UNAVAILABLE.
        """
        body = {"model": model, "messages": messages, "stream": True, **options}
        with closing(self._connection()) as connection:
            response = self._post(connection, body)
            try:
                yield from _deltas(response)
            except (OSError, http.client.HTTPException) as error:
                raise self._unavailable(error) from error

    def _connection(self) -> http.client.HTTPConnection:
        address = urlsplit(self.url)
        host, port = address.hostname or "", address.port
        if address.scheme == "https":
            context = trusting(self.authority)
            return http.client.HTTPSConnection(host, port, timeout=_SECONDS_BETWEEN_CHUNKS, context=context)
        return http.client.HTTPConnection(host, port, timeout=_SECONDS_BETWEEN_CHUNKS)

    def _post(
        self, connection: http.client.HTTPConnection, body: Mapping[str, object]
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(error) from error
        return response

    def _unavailable(self, error: Exception) -> TunefleetError:
        return TunefleetError(
            Reason.UNAVAILABLE,
            f"The gateway at {self.url} does not answer: {error}.",
            hint="tunefleet up, or tunefleet doctor",
            metadata={"address": self.url},
        )


def trusting(authority: bytes | None) -> ssl.SSLContext:
    """Return what checks a gateway's certificate by an authority, PEM; None: as this machine does."""
    if authority is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As gRPC does it: any certificate that was given is an anchor, not only one that signed itself.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authority.decode("ascii"))
    return context


def _deltas(response: http.client.HTTPResponse) -> Iterator[str]:
    for raw in response:
        line = raw.decode("utf-8", errors="replace").strip()
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        chunk = _object(data.encode())
        if "error" in chunk:
            raise _refusal(500, data.encode())
        choices = cast("list[Mapping[str, object]]", chunk.get("choices") or [])
        for choice in choices:
            delta = cast("Mapping[str, object]", choice.get("delta") or {})
            content = delta.get("content")
            if isinstance(content, str) and content:
                yield content


def _object(body: bytes) -> Mapping[str, object]:
    try:
        value: object = json.loads(body)
    except ValueError as error:
        raise TunefleetError(
            Reason.INTERNAL, f"The gateway did not answer with JSON: {error}.", hint="See the gateway's log."
        ) from error
    return cast("Mapping[str, object]", value if isinstance(value, dict) else {})


def _refusal(status: int, body: bytes) -> TunefleetError:
    """Return the error for an answer in OpenAI's error shape."""
    try:
        answer = _object(body)
    except TunefleetError:
        answer: Mapping[str, object] = {}
    error = cast("Mapping[str, object]", answer.get("error") or {})
    message = str(error.get("message") or f"The gateway answered {status}.")
    reason = _REASONS.get(status, Reason.FIELD_INVALID if 400 <= status < 500 else Reason.BACKEND_FAILED)
    return TunefleetError(
        reason,
        message,
        hint=_HINTS.get(status, ""),
        metadata={"status": str(status), "code": str(error.get("code"))},
    )
