"""Bearer tokens. Only their digests are held in memory and handed on."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tunefleet_coordinator.security.principal import Principal, Role

__all__ = ["TokenBook", "builtin_principals", "ensure_token_file", "token_digest"]


def token_digest(token: str) -> str:
    """Return the SHA-256 of a token, hex. Tokens are long and random, so a plain hash is enough."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def ensure_token_file(file: Path, prefix: str) -> str:
    """Return the token in a file, made on first use. The file is its owner's alone (0600)."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = f"{prefix}_{secrets.token_urlsafe(32)}"
        whole = file.with_name(f".{file.name}.{os.getpid()}")
        descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{token}\n")
            stream.flush()
            os.fsync(stream.fileno())
        # A link appears whole: no other process ever reads an empty token, which anybody could send.
        try:
            os.link(whole, file)
        except FileExistsError:
            pass
        finally:
            whole.unlink()
    return file.read_text().strip()


def builtin_principals(state_folder: Path) -> dict[str, Principal]:
    """Return who holds the tokens of a state folder, by digest; the files are made on first use."""
    admin = ensure_token_file(state_folder / "admin.token", "tf")
    service = ensure_token_file(state_folder / "service.token", "tfs")
    return {
        token_digest(admin): Principal(name="admin", role=Role.ADMIN),
        token_digest(service): Principal(name="service", role=Role.SERVICE),
    }


class TokenBook:
    """Digest of a token to its principal, in memory: what the coordinator looks up in.

    Kept equal to the store by whoever changes the store. Other processes look into the store
    itself: `StoredTokenBook`.
    """

    def __init__(self, principals: Mapping[str, Principal], clock: Callable[[], float] = time.time) -> None:
        self._principals = dict(principals)
        self._clock = clock

    def find(self, token: str) -> Principal | None:
        """Return whose token this is; None for one that is unknown, revoked or past its time."""
        # Found by digest: how long that takes tells nothing of a token that has the digest.
        principal = self._principals.get(token_digest(token))
        return principal if principal is not None and principal.is_known_at(self._clock()) else None

    def add(self, digest: str, principal: Principal) -> None:
        """Know a token from now on."""
        self._principals[digest] = principal

    def remove(self, digest: str) -> None:
        """Know a token no more."""
        self._principals.pop(digest, None)

    def users(self) -> list[tuple[str, Principal]]:
        """Return digest and principal of every token that may use the gateway, by digest."""
        now = self._clock()
        found = list(self._principals.items())
        return sorted(
            (
                (digest, principal)
                for digest, principal in found
                if principal.role is not Role.SERVICE and principal.is_known_at(now)
            ),
            key=lambda item: item[0],
        )
