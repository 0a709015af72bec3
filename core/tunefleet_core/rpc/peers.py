"""Who is at the other end of a connection that both sides showed certificates on."""

from __future__ import annotations

import hashlib
import ssl

from tunefleet_core.rpc.context import RpcContext

__all__ = ["peer_certificate"]


def peer_certificate(context: RpcContext) -> str:
    """Return the SHA-256 of the certificate that the caller has shown, hex; empty if none was asked for.

    The connection has checked that it is of the authority, that its time is right and that the caller
    has its key. Whether it still counts is for the caller of this function to look up.
    """
    shown = context.auth_context().get("x509_pem_cert") or ()
    for pem in shown:
        text = pem.decode("ascii") if isinstance(pem, bytes) else pem
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()
    return ""
