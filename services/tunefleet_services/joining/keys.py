"""The private key of a service, and requests for certificates of it. Here alone is `cryptography`."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.errors import TunefleetError

__all__ = ["ensure_key", "request_of"]


def ensure_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key of a file, made on first use; the file is its owner's alone (0600)."""
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TunefleetError.field("key", f"{path} is not the key of a service", hint=f"rm {path}")
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_whole_file(path, content, mode=0o600)
    return key


def request_of(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a PKCS #10 request of a key, PEM. It names nothing: the fleet decides who the holder is."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
