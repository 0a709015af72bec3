"""Tokens as another process of the same machine sees them: read from the store's file.

A token that was made or revoked a moment ago is seen so at once, with no message between the
processes: the commit that the caller was answered for is in the file. One look costs a
statement on an index, some 20 µs, so it may be done on an event loop.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tunefleet_coordinator.security.members import member
from tunefleet_coordinator.security.principal import Principal, Role
from tunefleet_coordinator.security.tokens import builtin_principals, token_digest
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["StoredMemberBook", "StoredTokenBook"]

_BUSY_SECONDS = 0.2
_FIND_TOKEN = "SELECT token_id, role, project, expire_time FROM tokens WHERE digest = ?"
_FIND_MEMBER = "SELECT service, kind, expire_time FROM certificates WHERE sha256 = ?"


class _StoreFile:
    """The store of a coordinator, read-only. It need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._address = f"file:{quote(str(path))}?mode=ro"
        self._connection: sqlite3.Connection | None = None

    def one(self, statement: str, key: str) -> tuple[Any, ...] | None:
        """Return the row of a key. Raises UNAVAILABLE if the store cannot be read just now."""
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(
                    self._address, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False
                )
            return self._connection.execute(statement, (key,)).fetchone()
        except sqlite3.Error as error:
            self.close()
            raise TunefleetError(
                Reason.UNAVAILABLE,
                "The store that knows who may call cannot be read just now.",
                hint="Try again; if it stays so, look whether the coordinator runs.",
                metadata={"error": str(error)},
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class StoredMemberBook:
    """Looks certificates of services of other machines up, as `StoredTokenBook` does tokens."""

    def __init__(self, store_file: Path, clock: Callable[[], float] = time.time) -> None:
        self._store = _StoreFile(store_file)
        self._clock = clock

    def find(self, token: str) -> Principal | None:
        """Return whose certificate has a digest; None if it is unknown, revoked or past its time."""
        row = self._store.one(_FIND_MEMBER, token)
        if row is None:
            return None
        principal = member(service=row[0], kind=row[1], expire_time=row[2])
        return principal if principal.is_known_at(self._clock()) else None

    def close(self) -> None:
        """Close the file."""
        self._store.close()


class StoredTokenBook:
    """Looks tokens up in a coordinator's store, read-only. A `TokenLookup` for `AuthInterceptor`.

    Args:
        store_file: The store of the coordinator, `coordinator.db`. It need not exist yet.
        builtin: Principals by digest that are known beside it.
        clock: For tests.

    Example:
        >>> book = StoredTokenBook.of_state_folder(Path("/var/lib/tunefleet"))  # doctest: +SKIP
        >>> book.find("tf_nobody") is None  # doctest: +SKIP
        True
    """

    def __init__(
        self, store_file: Path, builtin: Mapping[str, Principal], clock: Callable[[], float] = time.time
    ) -> None:
        self._store = _StoreFile(store_file)
        self._builtin = dict(builtin)
        self._clock = clock

    @classmethod
    def of_state_folder(cls, state_folder: Path) -> StoredTokenBook:
        """Return the book of a state folder: its two token files and its store."""
        return cls(state_folder / "coordinator.db", builtin_principals(state_folder))

    def find(self, token: str) -> Principal | None:
        """Return whose token this is; None for one that is unknown, revoked or past its time.

        Raises:
            TunefleetError: UNAVAILABLE if the store cannot be read just now.
        """
        digest = token_digest(token)
        principal = self._builtin.get(digest) or self._stored(digest)
        return principal if principal is not None and principal.is_known_at(self._clock()) else None

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def _stored(self, digest: str) -> Principal | None:
        row = self._store.one(_FIND_TOKEN, digest)
        if row is None:
            return None
        name, role, project, expire_time = row
        return Principal(name=name, role=Role[role.upper()], project=project or "*", expire_time=expire_time)
