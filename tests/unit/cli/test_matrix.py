"""`tunefleet catalog matrix` asks for what was named, and the training alone beside any engine."""

from __future__ import annotations

import json

import catalog_samples
from cli_process import run

from tunefleet_client.testing import FakeCoordinator


async def test_filters_reach_the_fleet_and_json_is_whole(fleet: FakeCoordinator) -> None:
    fleet.combinations = catalog_samples.combinations()
    ended = await run("catalog", "matrix", "--family", "qwen3", "--engine", "vllm", "--json")
    assert ended.code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["kind"] == "tunefleet.catalog.v1.ListCombinationsResponse"
    found = document["data"]["combinations"]
    assert {item["family"] for item in found} == {"qwen3"}
    assert {item.get("engine", "") for item in found} == {"", "vllm"}


async def test_filters_that_nothing_fits_are_said(fleet: FakeCoordinator) -> None:
    ended = await run("catalog", "matrix", "--family", "qwen3", "--plain")
    assert (ended.code, ended.stdout) == (0, "")
    assert "No combination fits these filters." in ended.stderr
