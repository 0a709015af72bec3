"""The matrix that a coordinator keeps: judged once, also for callers who left, and read in pages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from tests.unit.catalog.test_matrix import trainer
from tunefleet.catalog.v1 import catalog_service_pb2 as pb
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend, Service, ServiceKind, ServiceState
from tunefleet_coordinator.servicers import combinations as module
from tunefleet_coordinator.servicers.combinations import Combinations
from tunefleet_core.catalog.matrix import Cell, Matrix, Verdict
from tunefleet_core.catalog.matrix import combinations as judged_cells
from tunefleet_core.lifecycle import ServiceRow
from tunefleet_core.plugins import load_plugins


def services() -> list[ServiceRow]:
    described = Service(backends=[InstalledBackend(manifest=trainer(), status="ACTIVE")])
    return [
        ServiceRow(
            name="services/trainer",
            kind=ServiceKind.SERVICE_KIND_TRAINER,
            version=1,
            epoch=1,
            state=ServiceState.SERVICE_STATE_ATTACHED,
            description=described.SerializeToString(),
        )
    ]


async def all_of(kept: Combinations, **asked: Sequence[str]) -> list[pb.Combination]:
    found: list[pb.Combination] = []
    request = pb.ListCombinationsRequest(page_size=500, **asked)  # type: ignore[arg-type]
    while True:
        page = await kept.page(services(), request)
        found.extend(page.items)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_pages_hold_every_combination_once_and_in_order() -> None:
    plugins = load_plugins()
    matrix = Matrix.of([trainer()], plugins.families(), plugins.formats())
    cells = [cell for cell, _ in judged_cells(matrix)]
    kept = Combinations(plugins)
    found = await all_of(kept)
    assert len(found) > 1000, "several pages"
    assert [(item.family, item.adaptation, item.format, item.engine) for item in found] == [
        (cell.family, cell.adaptation, cell.format, cell.engine) for cell in cells
    ]
    some = await all_of(kept, families=["qwen3", "llama3"], engines=["vllm"])
    assert some == [item for item in found if item.family in ("qwen3", "llama3") and item.engine == "vllm"]


async def test_what_a_caller_who_left_asked_for_is_there_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on, begun = threading.Event(), threading.Event()
    times: list[Matrix] = []

    def slowly(matrix: Matrix) -> Iterator[tuple[Cell, Verdict]]:
        times.append(matrix)
        begun.set()
        goes_on.wait(60)
        return judged_cells(matrix, families=["qwen3"])

    monkeypatch.setattr(module, "combinations", slowly)
    kept = Combinations(load_plugins())
    request = pb.ListCombinationsRequest()
    leaves = asyncio.create_task(kept.page(services(), request))
    await asyncio.to_thread(begun.wait, 60)
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    stays = asyncio.create_task(kept.page(services(), request))
    goes_on.set()
    assert (await stays).items
    assert len(times) == 1, "judged once, though the first who asked left"
