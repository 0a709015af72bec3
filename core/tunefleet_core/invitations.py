"""One opaque string that carries all that another machine needs: an address, a secret, a certificate.

`tunefleet login` and `tunefleet trainer --join` take one. It is printed once, pasted once, and holds a
secret: whoever has it may do what it stands for.
"""

from __future__ import annotations

import base64
import binascii
import ssl
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from tunefleet_core.errors import TunefleetError

__all__ = ["Invitation", "InvitationKind"]

_CHECK_BYTES = 4


class InvitationKind(StrEnum):
    """What a string is for; it begins with this."""

    LOGIN = "tflogin1"
    JOIN = "tfjoin1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a string carries.

    Attributes:
        kind: What it is for.
        address: `host:port` of the listener for people.
        secret: An API token, or the secret of a join token.
        authority: What the certificate of that listener is checked by, PEM; empty: it is plain.
        service: The service to join as; empty: any, or a login.

    Example:
        >>> made = Invitation(kind=InvitationKind.LOGIN, address="127.0.0.1:7460", secret="tf_1")
        >>> Invitation.read(str(made), InvitationKind.LOGIN).address
        '127.0.0.1:7460'
    """

    kind: InvitationKind
    address: str
    secret: str
    authority: bytes = b""
    service: str = ""

    def __str__(self) -> str:
        der = ssl.PEM_cert_to_DER_cert(self.authority.decode("ascii")) if self.authority else b""
        content = "\n".join((self.address, self.secret, self.service, "")).encode() + der
        checked = zlib.crc32(content).to_bytes(_CHECK_BYTES, "big") + content
        return f"{self.kind}_{base64.urlsafe_b64encode(checked).decode().rstrip('=')}"

    def __repr__(self) -> str:
        return f"<invitation to {self.address}>"  # never the secret: it would end in a log

    @classmethod
    def read(cls, text: str, kind: InvitationKind) -> Self:
        """Read a string of a kind.

        Raises:
            TunefleetError: FIELD_INVALID if it is of another kind, or was cut.
        """
        begin, _, rest = "".join(text.split()).partition("_")
        if begin != kind:
            other = "is none" if begin not in list(InvitationKind) else f"begins with {begin}_"
            raise TunefleetError.field(
                "string", f"must begin with {kind}_; what was given {other}", hint=_HINTS[kind]
            )
        try:
            checked = base64.urlsafe_b64decode(rest + "=" * (-len(rest) % 4))
            content = checked[_CHECK_BYTES:]
            if zlib.crc32(content).to_bytes(_CHECK_BYTES, "big") != checked[:_CHECK_BYTES]:
                raise ValueError
            address, secret, service, der = content.split(b"\n", 3)
            return cls(
                kind=kind,
                address=address.decode(),
                secret=secret.decode(),
                service=service.decode(),
                authority=ssl.DER_cert_to_PEM_cert(der).encode() if der else b"",
            )
        except (ValueError, binascii.Error):
            raise TunefleetError.field(
                "string", "is not whole: some of it was lost on the way", hint="Copy all of it, in one piece."
            ) from None


_HINTS = {
    InvitationKind.LOGIN: "An admin makes one: tunefleet tokens create NAME --login",
    InvitationKind.JOIN: "An operator makes one: tunefleet fleet tokens create --kind trainer",
}
