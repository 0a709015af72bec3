"""The fleet's own certificate authority, in the coordinator's state folder.

The private key of the authority is read by the coordinator alone. Other processes of this machine get
the certificate of the server and its key; services of other machines get certificates for keys of
their own. `cryptography` is imported here and only where a fleet has TLS.
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.errors import TunefleetError

__all__ = ["Authority", "IssuedCertificate", "RequestedKey"]

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 397
_SKEW = timedelta(minutes=5)  # clocks of other machines may be behind
_MAX_REQUEST_BYTES = 8192
_Name = x509.DNSName | x509.IPAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedKey:
    """The key of a request; of what else it says nothing is taken."""

    public: ec.EllipticCurvePublicKey
    sha256: str

    @classmethod
    def read(cls, request_pem: str) -> RequestedKey:
        """Read a PKCS #10 request, PEM.

        Raises:
            TunefleetError: FIELD_INVALID if it is none, or not of a key on P-256 that signed it.
        """
        public = _requested_key(request_pem)
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(public=public, sha256=hashlib.sha256(der).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate of a service, and what the store knows it by."""

    pem: str
    sha256: str
    expire_time: float


class Authority:
    """Issues certificates. Made by `open`; its methods take milliseconds."""

    def __init__(self, folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._folder = folder
        self._key = key
        self._certificate = certificate

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """Return the authority of a folder, made on first use. Keys are their owner's alone (0600)."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key_file, certificate_file = folder / "authority.key", folder / "authority.pem"
        if certificate_file.exists():  # written last: then there is a key
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise TunefleetError.field(
                    "authority.key", f"{key_file} is not the key of an authority of tunefleet"
                )
            return cls(folder, key, x509.load_pem_x509_certificate(certificate_file.read_bytes()))
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tunefleet authority")])
        builder = _builder(name, name, key.public_key(), timedelta(days=_AUTHORITY_DAYS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        write_whole_file(key_file, _pem_of_key(key), mode=0o600)
        write_whole_file(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, key, certificate)

    @property
    def pem(self) -> bytes:
        """The certificate of the authority."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue_server(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """Return certificate and key of this machine's listeners, kept as `server.pem` and `server.key`."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._leaf(names[0], key.public_key(), timedelta(days=_SERVER_DAYS), names=names)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        write_whole_file(self._folder / "server.key", _pem_of_key(key), mode=0o600)
        write_whole_file(self._folder / "server.pem", certificate)
        return certificate, _pem_of_key(key)

    def issue_service(
        self, key: RequestedKey, service: str, *, life: timedelta, names: Sequence[str] = ()
    ) -> IssuedCertificate:
        """Return the certificate of a service.

        Args:
            key: Of its request.
            service: `services/{service}`; the certificate's common name.
            life: How long it is good.
            names: What it may be dialled by; empty: it may not be dialled.
        """
        builder = self._leaf(service, key.public, life, names=names, is_client=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return IssuedCertificate(
            pem=pem,
            sha256=hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest(),
            expire_time=certificate.not_valid_after_utc.timestamp(),
        )

    def _leaf(
        self,
        common_name: str,
        key: ec.EllipticCurvePublicKey,
        life: timedelta,
        *,
        names: Sequence[str],
        is_client: bool = False,
    ) -> x509.CertificateBuilder:
        # A common name holds 64 characters; those that matter stand among the alternative names.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
        builder = _builder(subject, self._certificate.subject, key, life)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH] if is_client else []
        usages += [ExtendedKeyUsageOID.SERVER_AUTH] if names else []
        alternatives: list[x509.GeneralName] = [_general_name(name) for name in names]
        if is_client:
            alternatives.append(x509.UniformResourceIdentifier(f"tunefleet:{common_name}"))
        return (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> _Name:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise TunefleetError.field(
            "public-name",
            f"'{name}' is neither a host name nor an address",
            hint="Leave scheme and port out.",
        ) from None


def _requested_key(request_pem: str) -> ec.EllipticCurvePublicKey:
    hint = "Join with `tunefleet trainer --join`, which makes key and request."
    if len(request_pem) > _MAX_REQUEST_BYTES:
        raise TunefleetError.field("certificate_request", "is too long", hint=hint)
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        is_signed = request.is_signature_valid  # whoever asks has the key
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        raise TunefleetError.field(
            "certificate_request", "is no PKCS #10 request in PEM", hint=hint
        ) from None
    if not is_signed or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise TunefleetError.field(
            "certificate_request", "must be signed with its own key, on P-256", hint=hint
        )
    return key


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
