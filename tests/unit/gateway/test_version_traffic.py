"""What a gateway knows of the versions that it passes requests on to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tunefleet_services.gateway.exchange import Exchange, Outcome
from tunefleet_services.gateway.routes import Route
from tunefleet_services.gateway.splits import Split
from tunefleet_services.gateway.version_traffic import VersionTraffic

_ROUTE = Route(
    model="tickets",
    engine_addresses=("http://127.0.0.1:1",),
    engine_model="tickets@1",
    project="default",
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
    version="v1",
    split=Split(rollout="r", is_candidate=False, sticky="user"),
)


def ended(traffic: VersionTraffic, route: Route, status: int, outcome: Outcome = "answered") -> Exchange:
    exchange = Exchange(request_id="x", method="POST", path="/v1/chat/completions")
    traffic.begin(exchange, route)
    exchange.status, exchange.outcome = status, outcome
    traffic.end(exchange)
    return exchange


@pytest.mark.parametrize(
    ("status", "outcome", "requests", "errors"),
    [
        (200, "answered", 1, 0),
        (400, "answered", 1, 0),
        (500, "answered", 1, 1),
        (503, "refused", 1, 1),
        (200, "engine_gone", 1, 1),
        (499, "client_gone", 0, 0),
    ],
)
def test_what_counts_as_a_failure(status: int, outcome: Outcome, requests: int, errors: int) -> None:
    traffic = VersionTraffic()
    ended(traffic, _ROUTE, status, outcome)
    counts = traffic.take_counts()
    assert sum(item.counts.requests for item in counts) == requests
    assert sum(item.counts.errors for item in counts) == errors
    assert traffic.take_counts() == []


def test_only_versions_of_a_roll_out_are_counted() -> None:
    traffic = VersionTraffic()
    ended(traffic, replace(_ROUTE, split=None), 200)
    ended(traffic, replace(_ROUTE, version=""), 200)
    assert traffic.take_counts() == []


def test_a_draining_version_is_drained_when_its_last_request_has_ended() -> None:
    traffic = VersionTraffic()
    exchange = Exchange(request_id="x", method="POST", path="/v1/chat/completions")
    traffic.begin(exchange, _ROUTE)
    traffic.drain(["v1", "v0"])
    assert traffic.drained() == ["v0"]
    traffic.changed.clear()
    traffic.end(exchange)
    assert traffic.changed.is_set()
    assert traffic.drained() == ["v0", "v1"]
