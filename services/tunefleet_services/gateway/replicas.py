"""Which replica of a model takes a request: the one that has its beginning in its cache, else the idlest.

An engine keeps the keys and values of prompts that it has read. So requests with one beginning go
to one replica as long as that replica is not clearly busier than the others: consistent hashing with
bounded loads (Mirrokni, Thorup and Zadimoghaddam, arXiv:1608.01350), on the ranks of rendezvous
hashing (Thaler and Ravishankar, 1998), which with few replicas needs no ring.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType

__all__ = ["Replicas"]

_BOUND = 1.25
"""Load at which a replica is passed over, in shares of the mean."""
_AVOID_SECONDS = 5.0
"""How long a replica that did not answer is asked only after all others; its server restarts it meanwhile."""


class Replicas:
    """Knows how busy each engine is, by address. Used from the gateway's event loop only.

    What it counts is this gateway's own requests: a second gateway in front of the same engines
    is not seen.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """Set when a draining replica has nothing in flight any more."""
        self._outstanding: dict[str, int] = {}
        self._in_flight: Counter[str] = Counter()
        self._draining: frozenset[str] = frozenset()
        self._avoided_until: dict[str, float] = {}
        self._turn = 0

    @property
    def outstanding(self) -> Mapping[str, int]:
        """Requests that each engine works on now; engines without any are left out."""
        return MappingProxyType(self._outstanding)

    def order(self, addresses: Sequence[str], affinity: bytes) -> Sequence[str]:
        """Return the replicas in the order in which they are to be asked.

        Args:
            addresses: Base addresses of the engines that serve the model; at least one.
            affinity: What requests with one beginning have in common; empty: this one has no like.
        """
        if len(addresses) == 1:
            return addresses
        avoided = self._avoided()
        able = [address for address in addresses if address not in avoided]
        rest = [address for address in addresses if address in avoided]
        return [*(self._ranked(able, affinity) if affinity else self._idlest_first(able)), *rest]

    def draining_last(self, addresses: Sequence[str], replicas: Mapping[str, str]) -> Sequence[str]:
        """Return the addresses, those of draining replicas behind all others.

        Args:
            addresses: In the order in which they are to be asked.
            replicas: Uid of the replica at each.
        """
        if not self._draining:
            return addresses
        return sorted(addresses, key=lambda address: replicas.get(address) in self._draining)

    def take(self, address: str, replica: str = "") -> None:
        """Count a request that is sent to an engine, and to which replica of a version, by its uid."""
        self._outstanding[address] = self._outstanding.get(address, 0) + 1
        if replica:
            self._in_flight[replica] += 1

    def give_back(self, address: str, replica: str = "") -> None:
        """Count its end."""
        left = self._outstanding[address] - 1
        if left:
            self._outstanding[address] = left
        else:
            del self._outstanding[address]  # addresses come and go: none of them is kept for ever
        if replica:
            self._in_flight[replica] -= 1
            if not self._in_flight[replica]:
                del self._in_flight[replica]
                if replica in self._draining:
                    self.changed.set()

    def drain(self, replicas: Iterable[str]) -> None:
        """Take in which replicas get no new requests while others of their version do."""
        self._draining = frozenset(replicas)
        if self._draining:
            self.changed.set()

    def drained(self) -> list[str]:
        """Return the draining replicas that no request in flight is with."""
        return sorted(uid for uid in self._draining if uid not in self._in_flight)

    def avoid(self, address: str) -> None:
        """Note that an engine went away before it answered."""
        self._avoided_until = {**self._avoided(), address: time.monotonic() + _AVOID_SECONDS}

    def _avoided(self) -> Mapping[str, float]:
        now = time.monotonic()
        return {address: until for address, until in self._avoided_until.items() if until > now}

    def _idlest_first(self, addresses: Sequence[str]) -> Sequence[str]:
        if not addresses:
            return addresses
        self._turn += 1  # of those that are equally idle, each in its turn
        start = self._turn % len(addresses)
        return sorted([*addresses[start:], *addresses[:start]], key=self._load)

    def _ranked(self, addresses: Sequence[str], affinity: bytes) -> Sequence[str]:
        ranked = sorted(addresses, key=lambda address: blake2b(address.encode(), key=affinity).digest())
        # With this request among them. One of them is always below it: not all exceed the mean.
        total = 1 + sum(map(self._load, ranked))
        bound = math.ceil(_BOUND * total / max(1, len(ranked)))
        return sorted(ranked, key=lambda address: self._load(address) >= bound)

    def _load(self, address: str) -> int:
        return self._outstanding.get(address, 0)
