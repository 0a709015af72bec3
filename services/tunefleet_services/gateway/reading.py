"""Read a request's body whole, within a size and a time."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.settings import GatewaySettings

__all__ = ["read_body"]


async def read_body(request: web.Request, settings: GatewaySettings) -> bytes:
    """Return the body.

    Raises:
        GatewayError: 413 if it is too long, 408 if it does not come in time, 400 if it breaks off.
    """
    limit = settings.max_body_bytes
    try:
        if (request.content_length or 0) > limit:
            raise web.HTTPRequestEntityTooLarge(max_size=limit)
        if request.content.is_eof():  # came with the head, as nearly every one: nothing to wait for
            return await request.read()
        async with asyncio.timeout(settings.idle_seconds):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise GatewayError(
            413,
            f"The request body is longer than {limit} bytes. Send less in one request.",
            code="request_too_large",
        ) from error
    except web.RequestPayloadError as error:
        raise GatewayError(
            400,
            "The request body broke off or is not packed as its headers say. Send it again.",
            code="invalid_body",
        ) from error
    except TimeoutError as error:
        raise GatewayError(
            408, "The request body did not arrive in time. Send it again.", code="request_timeout"
        ) from error
