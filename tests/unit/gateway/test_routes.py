"""The route table is a checked value, and is replaced as a whole."""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from tunefleet_core.errors import TunefleetError
from tunefleet_services.gateway import Grant, Route, RouteTable, RouteTableHolder
from tunefleet_services.gateway.admission import grant_of


def route(**changes):
    fields = {
        "model": "tickets",
        "engine_addresses": ("http://127.0.0.1:8000",),
        "engine_model": "tickets@42",
        "project": "default",
        "create_time": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Route(**{**fields, **changes})


def test_of_two_routes_with_one_name_the_newer_serves_in_either_order():
    old = route()
    new = route(engine_model="tickets@43", create_time=datetime(2026, 1, 2, tzinfo=UTC))
    for routes in ([old, new], [new, old]):
        assert RouteTable.of(routes, []).routes == {"tickets": new}


def test_routes_to_one_engine_model_are_its_replicas_and_those_of_an_older_one_are_not():
    day = [datetime(2026, 1, at, tzinfo=UTC) for at in (1, 2, 3)]
    routes = [
        route(engine_model="tickets@41", engine_addresses=("http://a",), create_time=day[0]),
        route(engine_addresses=("http://b",), create_time=day[2]),
        route(engine_addresses=("http://c",), create_time=day[1]),
        route(engine_addresses=("http://d",), project="research", create_time=day[0]),
    ]
    table = RouteTable.of(routes, [])
    both = route(engine_addresses=("http://b", "http://c"), create_time=day[2])
    assert table.routes == {"tickets": both}
    assert table.routes_of("default") == {"tickets": both}
    assert table.routes_of("research")["tickets"].engine_addresses == ("http://d",)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:8000",
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#a",
        "http://user:secret@127.0.0.1",
        "http://[::1",
        "relay://server",
        "relay://server/",
        "relay://server/engine/more",
        "relay://user@server/engine",
        "relay:///engine",
    ],
)
def test_an_address_that_is_no_base_address_is_refused(address):
    with pytest.raises(TunefleetError, match="is not http"):
        RouteTable.of([route(engine_addresses=(address,))], [])


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8000/", "http://[::1]:80", "https://engine.lan", "relay://server-2/echo-1f"]
)
def test_base_addresses_are_taken(address):
    found = RouteTable.of([route(engine_addresses=(address,))], []).routes["tickets"]
    assert found.engine_addresses == (address,)


@pytest.mark.parametrize("field", ["model", "engine_model"])
def test_empty_names_are_refused(field):
    with pytest.raises(TunefleetError, match=f"routes.{field}"):
        RouteTable.of([route(**{field: ""})], [])


def test_digests_are_checked_and_a_token_itself_is_never_taken_for_one():
    digest = hashlib.sha256(b"token").hexdigest()
    assert set(RouteTable.of([], [digest.upper()]).grants) == {digest}
    with pytest.raises(TunefleetError) as caught:
        RouteTable.of([], ["token"])
    assert "'token'" not in str(caught.value)  # it may be a secret sent by mistake


def test_a_project_sees_its_own_model_even_where_another_has_a_newer_of_that_name():
    own = route(project="research")
    newer = route(create_time=datetime(2026, 1, 2, tzinfo=UTC))
    table = RouteTable.of([own, newer], [])
    assert table.routes_of("") == {"tickets": newer}
    assert table.routes_of("research") == {"tickets": own}
    assert table.routes_of("nobody") == {}


def test_a_token_whose_time_is_over_opens_nothing():
    digest = hashlib.sha256(b"token").hexdigest()
    for expire_time, is_known in ((None, True), (4e9, True), (1.0, False)):
        table = RouteTable.of([], [], [(digest, Grant(expire_time=expire_time))])
        assert (grant_of("token", table.grants) is not None) is is_known


def test_a_table_cannot_be_changed():
    table = RouteTable.of([route()], [])
    with pytest.raises(TypeError):
        table.routes["other"] = route()  # pyright: ignore[reportIndexIssue]
    with pytest.raises(FrozenInstanceError):
        table.grants = {}  # pyright: ignore[reportAttributeAccessIssue]


def test_the_holder_gives_whole_tables():
    holder = RouteTableHolder()
    assert (holder.table.routes, holder.table.grants) == ({}, {})
    table = RouteTable.of([route()], [])
    holder.replace_routes(table)
    assert holder.table is table
