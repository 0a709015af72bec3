"""Why a connection did not come to be: gRPC says only that it did not, so the handshake is tried once more.

Nothing is sent but the greeting of TLS, so no token is shown to whoever answers.
"""

from __future__ import annotations

import socket
import ssl

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["explain_handshake"]

_SECONDS = 3.0
_EXPIRED = 10
_NOT_YET_VALID = 9
_OTHER_NAME = (62, 64)
_CA_HINT = "Give the authority of that fleet: tunefleet login STRING, or TUNEFLEET_CA=FILE."


def explain_handshake(address: str, peer: str, authority: bytes | None) -> TunefleetError | None:
    """Return what is wrong between this side and a listener; None if it is not the handshake. Blocks.

    Args:
        address: `host:port`.
        peer: The other side for people, such as `The coordinator at gpu0:7460`.
        authority: PEM that its certificate is checked by; None: this side speaks plain text.
    """
    if authority is None:
        return _if_it_speaks_tls(address, peer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As gRPC does it: any certificate that was given is an anchor, not only one that signed itself.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=authority.decode("ascii"))
        _greet(address, context)
    except ssl.SSLCertVerificationError as error:
        return _unavailable(*_of_certificate(error, peer), peer)
    except ssl.SSLError as error:
        if "CERTIFICATE_REQUIRED" in str(error):
            return None  # it did answer with TLS, and wants a certificate of this side
        return _unavailable(
            f"{peer} answers, but not with TLS.",
            "It is a fleet without TLS: leave the authority out (TUNEFLEET_CA, tunefleet logout), "
            "or correct the port.",
            peer,
        )
    except (OSError, ValueError):
        return None
    return None


def _if_it_speaks_tls(address: str, peer: str) -> TunefleetError | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is said to it: only whether it speaks TLS is asked
    try:
        _greet(address, context)
    except (OSError, ValueError):
        return None
    return _unavailable(f"{peer} speaks TLS, and it was called in plain text.", _CA_HINT, peer)


def _greet(address: str, context: ssl.SSLContext) -> None:
    host, _, port = address.rpartition(":")
    context.set_alpn_protocols(["h2"])
    name = host.strip("[]")
    with (
        socket.create_connection((name, int(port)), timeout=_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=name),
    ):
        return


def _of_certificate(error: ssl.SSLCertVerificationError, peer: str) -> tuple[str, str]:
    if error.verify_code == _EXPIRED:
        return (
            f"{peer} shows a certificate whose time is over.",
            "Start that fleet again, which renews it; with your own certificate, replace the files first.",
        )
    if error.verify_code == _NOT_YET_VALID:
        return (
            f"{peer} shows a certificate whose time has not come.",
            "Set the clocks of both machines right.",
        )
    if error.verify_code in _OTHER_NAME:
        return (
            f"{peer} shows a certificate for another name or address.",
            "Call it by a name that it was started with (--public-name).",
        )
    return (
        f"{peer} answers, but not with a certificate that is trusted here.",
        _CA_HINT,
    )


def _unavailable(message: str, hint: str, peer: str) -> TunefleetError:
    return TunefleetError(Reason.UNAVAILABLE, message, hint=hint, metadata={"peer": peer, "handshake": "1"})
