"""Where model names lead and who may ask: an immutable table, replaced as a whole.

A request takes the table once and keeps it. A table that is replaced while an answer
streams therefore harms nothing: the stream ends on the engine where it began.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from urllib.parse import urlsplit

from tunefleet_core.errors import TunefleetError
from tunefleet_services.gateway.relays import Relays, is_relay_address
from tunefleet_services.gateway.replicas import Replicas
from tunefleet_services.gateway.splits import Split, is_for_candidate

__all__ = ["Grant", "Route", "RouteTable", "RouteTableHolder"]

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a gateway sends a model name; the fields of `fleet/v1` Route, replicas together.

    Attributes:
        model: Name as clients say it.
        engine_addresses: Base address of each engine that serves it, as `http://127.0.0.1:8000`,
            without `/v1`, or `relay://SERVER/ENGINE`.
        engine_model: Name inside the engines.
        project: The project it belongs to.
        create_time: When it became ready; with a time zone.
        replica_uids: Uid of the replica of the version that each of these engines is, by address; left out
            where it is not known.
        version: Uid of the version of a deployment that answers there; empty: not known.
        weight: Its share of the model's traffic, percent.
        split: How callers are spread over versions; None: there is one version.
        candidate: The version that is rolled out beside this one, in a table.
    """

    model: str
    engine_addresses: tuple[str, ...]
    engine_model: str
    project: str
    create_time: datetime
    version: str = ""
    weight: int = 100
    split: Split | None = None
    candidate: Route | None = None
    replica_uids: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def version_for(self, caller: str) -> Route:
        """Return the version that a caller gets; empty: a caller known by nothing."""
        other = self.candidate
        if other is None or other.split is None:
            return self
        return other if is_for_candidate(other.split.rollout, caller, other.weight) else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an API token opens at a gateway.

    Attributes:
        project: The project whose models it reaches; empty: all.
        expire_time: When it ends by itself, seconds since 1970; None: never.
    """

    project: str = ""
    expire_time: float | None = None

    def is_over(self) -> bool:
        """Say whether its time is over."""
        return self.expire_time is not None and time.time() >= self.expire_time


def _no_routes() -> Mapping[str, Route]:
    return MappingProxyType({})


def _no_projects() -> Mapping[str, Mapping[str, Route]]:
    return MappingProxyType({})


def _no_grants() -> Mapping[str, Grant]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """One snapshot: the routes by model name, and what each accepted API token opens.

    `routes` is what a token of all projects sees, `routes_of` what one of a project sees.

    The empty table knows no model and accepts nobody. Build others with `of`, which checks them.
    """

    routes: Mapping[str, Route] = field(default_factory=_no_routes)
    grants: Mapping[str, Grant] = field(default_factory=_no_grants)
    _by_project: Mapping[str, Mapping[str, Route]] = field(default_factory=_no_projects)

    def routes_of(self, project: str) -> Mapping[str, Route]:
        """Return the routes that a token of a project reaches; of all, if it is empty."""
        return self._by_project.get(project, _no_routes()) if project else self.routes

    @classmethod
    def of(
        cls,
        routes: Iterable[Route],
        token_digests: Iterable[str],
        grants: Iterable[tuple[str, Grant]] = (),
    ) -> RouteTable:
        """Build a table.

        Args:
            routes: The routes. Those with one project, name, engine model and side of a roll-out are
                replicas of one another, and the two sides of a roll-out share their callers. Of
                others with one name the newer serves: a deployment that follows another is ready
                before the first is taken down.
            token_digests: SHA-256 of each API token that is accepted without bounds, hex.
            grants: Digest and bounds of further tokens.

        Raises:
            TunefleetError: FIELD_INVALID for an empty name, an address that is not
                `http(s)://host[:port]`, or a digest that is none.
        """
        by_model: dict[str, Route] = {}
        by_project: dict[str, dict[str, Route]] = {}
        for route in _with_candidates(_with_replicas(routes)):
            for seen in (by_model, by_project.setdefault(route.project, {})):
                known = seen.get(route.model)
                if known is None or known.create_time <= route.create_time:
                    seen[route.model] = route
        accepted = {digest.lower(): grant for digest, grant in grants}
        accepted.update((digest.lower(), Grant()) for digest in token_digests)
        for digest in accepted:
            if not _DIGEST.fullmatch(digest):
                raise TunefleetError.field("token_digests", "a digest is not 64 hex digits")
        projects = {project: MappingProxyType(seen) for project, seen in by_project.items()}
        return cls(
            routes=MappingProxyType(by_model),
            grants=MappingProxyType(accepted),
            _by_project=MappingProxyType(projects),
        )


class RouteTableHolder:
    """Holds the table in force. Replacing it is one assignment: no request sees half of it.

    Both doors of a gateway share it, and with it what is known of engines: how busy they
    are, and which servers carry requests to theirs.
    """

    __slots__ = ("_table", "is_known", "relays", "replicas")

    def __init__(self, table: RouteTable | None = None) -> None:
        self._table = table or RouteTable()
        self.is_known = table is not None
        """Whether there was a table yet. Until then nobody's token is known, and none is wrong."""
        self.replicas = Replicas()
        self.relays = Relays()

    @property
    def table(self) -> RouteTable:
        """The table in force now."""
        return self._table

    def replace_routes(self, table: RouteTable) -> None:
        """Put another table in force for every request that begins after this."""
        self._table = table
        self.is_known = True


def _with_replicas(routes: Iterable[Route]) -> Iterable[Route]:
    """Return the routes, those of one project, name and engine model as one."""
    merged: dict[tuple[str, str, str, Split | None], Route] = {}
    for route in routes:
        _check(route)
        key = (route.project, route.model, route.engine_model, route.split)
        known = merged.get(key)
        if known is not None:
            addresses = dict.fromkeys((*known.engine_addresses, *route.engine_addresses))
            newest = max(known.create_time, route.create_time)
            route = replace(
                route,
                engine_addresses=tuple(sorted(addresses)),
                create_time=newest,
                replica_uids=MappingProxyType({**known.replica_uids, **route.replica_uids}),
            )
        merged[key] = route
    return merged.values()


def _with_candidates(routes: Iterable[Route]) -> Iterable[Route]:
    """Return the routes, the two sides of a roll-out as one."""
    found = list(routes)
    sides = {(route.split.rollout, route.split.is_candidate): route for route in found if route.split}
    for route in found:
        if route.split is None:
            yield route
        elif not route.split.is_candidate:
            yield replace(route, candidate=sides.get((route.split.rollout, True)))
        elif (route.split.rollout, False) not in sides:
            yield route


def _check(route: Route) -> None:
    if not route.model:
        raise TunefleetError.field("routes.model", "is empty")
    if not route.engine_model:
        raise TunefleetError.field("routes.engine_model", f"is empty for model '{route.model}'")
    if not route.engine_addresses:
        raise TunefleetError.field("routes.engine_address", f"is empty for model '{route.model}'")
    for address in route.engine_addresses:
        if not (_is_base_address(address) or is_relay_address(address)):
            raise TunefleetError.field(
                "routes.engine_address",
                f"'{address}' of model '{route.model}' is not http(s)://host[:port]",
            )


def _is_base_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an open bracket
        return False
    is_bare = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
    return parts.scheme in ("http", "https") and has_host and is_bare
