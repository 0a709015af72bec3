"""GetFleet and the catalogue, asked of a real coordinator with a real trainer."""

from __future__ import annotations

import pytest
from chaos_fleet import ChaosFleet

from tunefleet.catalog.v1 import catalog_service_pb2 as catalog_pb
from tunefleet.catalog.v1 import catalog_service_pb2_grpc as catalog_grpc
from tunefleet.fleet.v1 import fleet_service_pb2 as pb
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet_coordinator.servicers.pages import page_of
from tunefleet_coordinator.store.schema import HEAD_REVISION
from tunefleet_core import CONTRACT_VERSION, __version__
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import open_channel


async def test_fleet_tells_what_it_is_and_who_asks(fleet: ChaosFleet) -> None:
    async with open_channel(fleet.user_address) as channel:
        stub = fleet_grpc.FleetServiceStub(channel)
        told = await stub.GetFleet(pb.GetFleetRequest(), metadata=fleet.bearer("admin"), timeout=10)
    assert told.version == __version__
    assert list(told.contract_versions) == [CONTRACT_VERSION]
    assert told.schema_version == HEAD_REVISION
    assert told.blob_address == ""
    assert told.disk_free_bytes > 0
    assert told.disk_watermark_bytes > 0
    assert told.start_time.seconds > 0
    assert (told.principal, told.role) == ("admin", "admin")
    async with open_channel(fleet.service_address) as channel:
        stub = fleet_grpc.FleetServiceStub(channel)
        told = await stub.GetFleet(pb.GetFleetRequest(), metadata=fleet.bearer("service"), timeout=10)
    assert (told.principal, told.role) == ("service", "service")


async def test_catalogue_shows_families_and_where_backends_are(fleet: ChaosFleet) -> None:
    await fleet.start_trainer("trainer", "--no-warm")
    async with open_channel(fleet.user_address) as channel:
        stub = catalog_grpc.CatalogServiceStub(channel)
        metadata = fleet.bearer("admin")

        async def echo_is_there() -> bool:
            answer = await stub.ListBackends(catalog_pb.ListBackendsRequest(), metadata=metadata, timeout=10)
            found = [item for item in answer.backends if item.installed.manifest.name == "echo"]
            return [list(item.services) for item in found] == [["services/trainer"]]

        await fleet.until(echo_is_there, "the trainer told its backends")
        first = await stub.ListFamilies(
            catalog_pb.ListFamiliesRequest(page_size=1), metadata=metadata, timeout=10
        )
        assert len(first.families) == 1
        rest = await stub.ListFamilies(
            catalog_pb.ListFamiliesRequest(page_token=first.next_page_token), metadata=metadata, timeout=10
        )
        families = [*first.families, *rest.families]
        assert rest.next_page_token == ""
        assert [family.name for family in families] == sorted(family.name for family in families)
        qwen3 = next(family for family in families if family.name == "qwen3")
        assert "generation" in qwen3.chat_template
        assert {"q_proj", "down_proj"} <= set(qwen3.target_modules)
        assert qwen3.distribution.startswith("tunefleet-families==")
        parsers = {(item.engine, item.form): item for item in qwen3.parsers}
        assert parsers["sglang", ""].tool_parser == "qwen25"
        assert (parsers["vllm", ""].reasoning_parser, parsers["vllm", "instruct"].reasoning_parser) == (
            "qwen3", "",
        )  # fmt: skip
        assert (list(qwen3.layer_classes), qwen3.thinking) == (["Qwen3DecoderLayer"], "optional")
        assert qwen3.licence == "Apache-2.0"
        assert qwen3.traps


async def test_the_matrix_of_a_fleet_lists_what_its_backends_can_do(fleet: ChaosFleet) -> None:
    await fleet.start_trainer("trainer", "--no-warm")
    async with open_channel(fleet.user_address) as channel:
        stub = catalog_grpc.CatalogServiceStub(channel)
        metadata = fleet.bearer("admin")

        async def cells(**asked: object) -> list[catalog_pb.Combination]:
            found: list[catalog_pb.Combination] = []
            request = catalog_pb.ListCombinationsRequest(page_size=7, backends=["echo"], **asked)  # type: ignore[arg-type]
            while True:
                page = await stub.ListCombinations(request, metadata=metadata, timeout=10)
                found.extend(page.combinations)
                if not page.next_page_token:
                    return found
                request.page_token = page.next_page_token

        async def echo_is_there() -> bool:
            return bool(await cells())

        await fleet.until(echo_is_there, "the trainer told its backends")
        found = await cells()
        keys = [(item.adaptation, item.format, item.engine) for item in found]
        assert keys == sorted(set(keys)), "each once, in order, over several pages"
        by_key = dict(zip(keys, found, strict=True))
        assert by_key["lora", "", "echo"].standing == catalog_pb.STANDING_STATED
        refused = by_key["dora", "", ""]
        assert refused.standing == catalog_pb.STANDING_NO
        assert refused.reason == "the backend 'echo' does not have DORA"
        assert refused.instead == "leave train.adapter.lora.dora out"
        standing = catalog_pb.STANDING_NO
        assert await cells(standing=standing) == [item for item in found if item.standing == standing]
        assert {item.engine for item in await cells(engines=["echo"])} == {"echo"}
        assert await cells(families=["qwen3"]) == [], "it looks at no base, so it knows no family"


async def test_catalogue_shows_formats_and_who_does_what_with_them(fleet: ChaosFleet) -> None:
    async with open_channel(fleet.user_address) as channel:
        stub = catalog_grpc.CatalogServiceStub(channel)
        metadata = fleet.bearer("admin")
        first = await stub.ListFormats(
            catalog_pb.ListFormatsRequest(page_size=2), metadata=metadata, timeout=10
        )
        rest = await stub.ListFormats(
            catalog_pb.ListFormatsRequest(page_token=first.next_page_token), metadata=metadata, timeout=10
        )
        formats = [*first.formats, *rest.formats]
        names = [item.name for item in formats]
        assert len(first.formats) == 2
        assert names == sorted(names)
        nf4 = next(item for item in formats if item.name == "nf4")
        assert nf4.bits_per_weight == 4 + 8 / 64 + 32 / (64 * 256)
        assert list(nf4.variants) == ["double", "single"]
        assert {"vllm", "sglang"} <= set(nf4.served_by)
        assert nf4.distribution.startswith("tunefleet-formats==")


def test_pages_of_a_short_list_are_whole_and_ordered() -> None:
    names = [f"m{number:02}" for number in range(7)]
    seen: list[str] = []
    request = catalog_pb.ListFamiliesRequest(page_size=3)
    while True:
        page = page_of(reversed(names), request, lambda name: (name,))
        seen.extend(page.items)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == names
    for bad in (
        catalog_pb.ListFamiliesRequest(page_size=-1),
        catalog_pb.ListFamiliesRequest(page_token="%%"),
    ):
        with pytest.raises(TunefleetError) as raised:
            page_of(names, bad, lambda name: (name,))
        assert raised.value.reason is Reason.FIELD_INVALID
