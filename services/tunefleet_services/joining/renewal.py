"""A certificate is renewed before it ends, and the session goes over to a connection with the new one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tunefleet.fleet.v1.fleet_service_pb2 import RenewCertificateRequest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.control.connection import Connection
from tunefleet_services.joining.membership import Membership

__all__ = ["keep_renewed"]

_LOG = logging.getLogger(__name__)
_AGAIN_SECONDS = 30.0


async def keep_renewed(membership: Membership, connection: Connection, renewed: Callable[[], None]) -> None:
    """Renew the certificate of a service again and again.

    Args:
        membership: Of the service.
        connection: To its coordinator; opened anew with each certificate.
        renewed: Called then.
    """
    while True:
        await asyncio.sleep(await asyncio.to_thread(membership.seconds_to_renewal))
        request = RenewCertificateRequest(
            certificate_request=await asyncio.to_thread(membership.key_and_request)
        )
        try:
            response = await connection.patiently(
                lambda seconds, request=request: connection.fleet.RenewCertificate(
                    request, metadata=connection.metadata, timeout=seconds
                )
            )
        except TunefleetError as error:
            if error.reason is Reason.CERTIFICATE_INVALID:
                raise
            _LOG.warning("the certificate is not renewed: %s", error.message)
            await asyncio.sleep(_AGAIN_SECONDS)
            continue
        expire_time = response.expire_time.ToNanoseconds() / 1e9
        await asyncio.to_thread(membership.renew, response.certificate, expire_time=expire_time)
        connection.reopen()
        _LOG.info("the certificate was renewed")
        renewed()
