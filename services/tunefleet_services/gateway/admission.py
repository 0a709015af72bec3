"""Who may send a request: loopback or named hosts, no foreign pages, a known API token.

Loopback is shared with every web page that the user's browser shows. A page cannot choose
the Host header that its browser sends (so a rebound DNS name is seen), nor hide its Origin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from aiohttp import web

from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.routes import Grant
from tunefleet_services.gateway.settings import GatewaySettings

__all__ = ["admit_source", "admit_token", "grant_of", "is_loopback", "knows_nobody_yet", "token_of"]

_SEE_TOKEN = "Send an API token of this fleet as 'Authorization: Bearer <token>'."


def admit_source(request: web.Request, settings: GatewaySettings) -> None:
    """Refuse a request by its Host and Origin headers.

    Raises:
        GatewayError: 403 with code `host_not_allowed` or `origin_not_allowed`.
    """
    name = _host_name(request.headers.get("Host", ""))
    if not is_loopback(name) and name not in settings.allowed_hosts:
        raise GatewayError(
            403,
            f"The gateway does not answer as host '{name}'. Use its loopback address, or have the "
            "name allowed where the gateway is started.",
            code="host_not_allowed",
            error_type="permission_error",
        )
    origin = request.headers.get("Origin")
    if origin is not None and origin not in settings.allowed_origins:
        raise GatewayError(
            403,
            f"Pages of origin '{origin}' may not use the gateway. Call it from a program, or have the "
            "origin allowed where the gateway is started.",
            code="origin_not_allowed",
            error_type="permission_error",
        )


def admit_token(request: web.Request, grants: Mapping[str, Grant]) -> Grant:
    """Return what the API token of a request opens.

    Args:
        request: The request.
        grants: What each accepted token opens, by its SHA-256, lower-case hex.

    Raises:
        GatewayError: 401 with code `invalid_api_key`.
    """
    token = token_of(request)
    if not token:
        raise _unauthenticated(f"No API token was sent. {_SEE_TOKEN}")
    grant = grant_of(token, grants)
    if grant is None:
        raise _unauthenticated(f"The API token is unknown or was revoked. {_SEE_TOKEN}")
    return grant


def token_of(request: web.Request) -> str:
    """Return the API token that a request carries; empty: none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def grant_of(token: str, grants: Mapping[str, Grant]) -> Grant | None:
    """Return what a token opens; None for one that is unknown or whose time is over.

    Found by digest: how long that takes tells nothing of a token that has the digest.
    """
    # surrogateescape: header bytes that are no UTF-8 are a wrong token, not a failure of ours.
    grant = grants.get(hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest())
    return None if grant is None or grant.is_over() else grant


def knows_nobody_yet() -> GatewayError:
    """Build the error for a gateway that has just started: a right token must not be called wrong."""
    return GatewayError(
        503,
        "The gateway has just started and has not heard of the fleet's tokens and models. Try again.",
        code="gateway_starting",
        error_type="server_error",
        headers={"Retry-After": "1"},
    )


@lru_cache(maxsize=64)
def is_loopback(name: str) -> bool:
    """Say whether a host name or address always means this machine."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """Return the name in a Host header: lower case, without port and brackets."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")


def _unauthenticated(message: str) -> GatewayError:
    return GatewayError(
        401,
        message,
        code="invalid_api_key",
        error_type="authentication_error",
        headers={"WWW-Authenticate": "Bearer"},
    )
