"""What the versions of deployments answer here: counted per request, told in a while.

Only versions of a roll-out are counted; which version is still at work is known of all of them,
so that one is taken down when nothing in flight is with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from tunefleet.deployment.v1.rollout_pb2 import TrafficCounts
from tunefleet.fleet.v1.fleet_pb2 import VersionTraffic as WireTraffic
from tunefleet_services.gateway.exchange import Exchange
from tunefleet_services.gateway.routes import Route

__all__ = ["VersionTraffic"]

_FAILED_STATUS = 500
_GONE = "client_gone"


class VersionTraffic:
    """Requests by version. Used from the gateway's event loop only, by both of its doors.

    Args:
        changed: An event to set; one of its own if left out.
    """

    def __init__(self, changed: asyncio.Event | None = None) -> None:
        self.changed = changed or asyncio.Event()
        """Set when a draining version has nothing in flight any more."""
        self._in_flight: Counter[str] = Counter()
        self._counts: dict[str, TrafficCounts] = {}
        self._draining: frozenset[str] = frozenset()

    def begin(self, exchange: Exchange, route: Route) -> None:
        """Note that a request goes to a version."""
        if route.version:
            exchange.version = route.version
            exchange.is_split = route.split is not None
            self._in_flight[route.version] += 1

    def end(self, exchange: Exchange) -> None:
        """Count a request at its end, if it went to a version."""
        uid = exchange.version
        if not uid:
            return
        self._in_flight[uid] -= 1
        if not self._in_flight[uid]:
            del self._in_flight[uid]
            if uid in self._draining:
                self.changed.set()
        if exchange.is_split and exchange.outcome != _GONE:
            self._count(self._counts.setdefault(uid, TrafficCounts()), exchange)

    def drain(self, uids: Iterable[str]) -> None:
        """Take in which versions get no new requests."""
        self._draining = frozenset(uids)
        if self._draining:
            self.changed.set()

    def drained(self) -> list[str]:
        """Return the draining versions that no request in flight is with."""
        return sorted(uid for uid in self._draining if uid not in self._in_flight)

    def take_counts(self) -> list[WireTraffic]:
        """Return what was counted since this was called before."""
        counts, self._counts = self._counts, {}
        return [WireTraffic(deployment_uid=uid, counts=item) for uid, item in counts.items()]

    def _count(self, counts: TrafficCounts, exchange: Exchange) -> None:
        counts.requests += 1
        if exchange.status >= _FAILED_STATUS or exchange.outcome == "engine_gone":
            counts.errors += 1
        if exchange.first_byte_seconds is not None:
            counts.first_bytes += 1
            counts.first_byte_seconds += exchange.first_byte_seconds
