"""Which certificates a coordinator listens with: of its own authority, or the operator's."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import ListenerTls, read_pem

if TYPE_CHECKING:  # it imports `cryptography`, which a fleet without TLS does without
    from tunefleet_coordinator.security.authority import Authority

__all__ = ["AUTHORITY_FOLDER", "FleetTls", "TlsOptions", "open_tls", "own_tls"]

AUTHORITY_FOLDER = "authority"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.S)
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How TLS is asked for.

    Attributes:
        public_names: Names and addresses, without port, that other machines reach this one by. The
            first is told to them.
        certificate: The operator's own certificate with its chain, PEM; None: one of the authority.
        key: Its key.
        trust: What clients check it by; None: the last certificate of the chain.
    """

    public_names: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    trust: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTls:
    """What a coordinator with TLS has.

    Attributes:
        authority: Issues certificates.
        users: What the listener for people shows.
        trust: What people check that by, PEM.
        services: What the listener for services of other machines shows and asks for.
        public_host: What other machines call this one.
        is_own: Whether the listener for people shows a certificate of the authority.
    """

    authority: Authority
    users: ListenerTls
    trust: bytes
    services: ListenerTls
    public_host: str
    is_own: bool

    def told(self, address: str) -> str:
        """Return an address of this machine as other machines reach it."""
        host = self.public_host
        return f"{f'[{host}]' if ':' in host else host}:{address.rpartition(':')[2]}"

    def called_here(self, address: str) -> str:
        """Return an address of this machine as programs of this machine reach it best."""
        host, _, port = address.rpartition(":")
        if not self.is_own:
            return self.told(address)  # a certificate of the operator's hardly names loopback
        return f"127.0.0.1:{port}" if _is_every_address(host) else address


def open_tls(state_folder: Path, user_address: str, options: TlsOptions) -> FleetTls:
    """Open the authority, on first use made, and the certificates for the listeners.

    Raises:
        TunefleetError: FIELD_INVALID if names or files are missing, BACKEND_FAILED without the library.
    """
    if find_spec("cryptography") is None:
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            "TLS needs the library `cryptography`, which is not installed here.",
            hint="pip install 'tunefleet[tls]'",
        )
    from tunefleet_coordinator.security.authority import Authority

    names = _names(user_address, options)
    authority = Authority.open(state_folder / AUTHORITY_FOLDER)
    certificate, key = authority.issue_server(list(dict.fromkeys((*names, *_LOCAL_NAMES))))
    own = ListenerTls(certificate=certificate, key=key)
    given = _of_operator(options)
    users, trust = given or (own, authority.pem)
    # What local clients and `tunefleet tokens create --login` hand on.
    (state_folder / AUTHORITY_FOLDER / "trust.pem").write_bytes(trust)
    return FleetTls(
        authority=authority,
        users=users,
        trust=trust,
        services=ListenerTls(certificate=certificate, key=key, client_authority=authority.pem),
        public_host=names[0],
        is_own=given is None,
    )


def own_tls(state_folder: Path) -> ListenerTls:
    """Return what another process of this machine shows services of others, and asks of them.

    Raises:
        TunefleetError: FIELD_INVALID if the coordinator has made no certificates yet.
    """
    folder = state_folder / AUTHORITY_FOLDER
    return ListenerTls.read(
        folder / "server.pem", folder / "server.key", client_authority=folder / "authority.pem"
    )


def _names(user_address: str, options: TlsOptions) -> tuple[str, ...]:
    host = user_address.rpartition(":")[0].strip("[]")
    names = options.public_names if _is_every_address(host) else (*options.public_names, host)
    if not names:
        raise TunefleetError.field(
            "public-name",
            f"must be given for {user_address}, which is every address of this machine",
            hint="Say what other machines call this one: --public-name gpu0.example",
        )
    return tuple(dict.fromkeys(names))


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _of_operator(options: TlsOptions) -> tuple[ListenerTls, bytes] | None:
    if options.certificate is None and options.key is None:
        if options.trust is not None:
            raise TunefleetError.field("tls-ca", "goes with --tls-cert and --tls-key alone")
        return None
    if options.certificate is None or options.key is None:
        missing = "tls-key" if options.key is None else "tls-cert"
        raise TunefleetError.field(missing, "is missing: a certificate and its key go together")
    chain = read_pem(options.certificate, "tls-cert")
    found = _CERTIFICATE.findall(chain)
    if not found:
        raise TunefleetError.field("tls-cert", f"{options.certificate} holds no certificate in PEM form")
    trust = found[-1] if options.trust is None else read_pem(options.trust, "tls-ca")
    if len(_CERTIFICATE.findall(trust)) != 1:
        raise TunefleetError.field("tls-ca", f"{options.trust} must hold one certificate in PEM form")
    key = read_pem(options.key, "tls-key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.certificate, options.key)
    except ssl.SSLError as error:
        raise TunefleetError.field(
            "tls-key", f"{options.key} is not the key of {options.certificate} ({error.reason})"
        ) from None
    return ListenerTls(certificate=chain, key=key), trust
