"""Identity and Settings: who the backend says it is, and what may be set."""

from __future__ import annotations

from google.protobuf import json_format

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.profile import capability_word

__all__ = ["TIMES", "Identity", "Settings"]

TIMES = 5
"""How often a call that may be repeated is repeated."""

_JSON_TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


class Identity(Suite):
    """GetBackend, before anything else is asked."""

    @case()
    async def test_it_answers_to_the_name_it_was_asked_for(self, bench: Bench) -> None:
        assert bench.manifest.name == bench.profile.backend

    @case()
    async def test_it_speaks_this_version_of_the_contract(self, bench: Bench) -> None:
        assert bench.manifest.contract_version == CONTRACT_VERSION

    @case()
    async def test_its_manifest_is_complete(self, bench: Bench) -> None:
        manifest = bench.manifest
        assert manifest.summary.strip(), "the summary is empty: one sentence for people"
        assert manifest.plugin, "the plugin is empty: a distribution as name==version"
        assert manifest.device_kinds, "no kind of device is named"
        works = {Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_SERVE, Capability.CAPABILITY_EVALUATE}
        works |= {Capability.CAPABILITY_MERGE, Capability.CAPABILITY_INSPECT, Capability.CAPABILITY_QUANTIZE}
        assert works & set(manifest.capabilities), "it declares nothing that it could be asked to do"

    @case(is_error=True)
    async def test_it_names_the_formats_it_writes_if_it_writes_any(self, bench: Bench) -> None:
        writes = Capability.CAPABILITY_QUANTIZE in bench.manifest.capabilities
        assert writes == bool(bench.manifest.exported_formats), "QUANTIZE and exported_formats go together"

    @case(is_error=True)
    async def test_it_declares_no_capability_twice_or_unknown(self, bench: Bench) -> None:
        declared = list(bench.manifest.capabilities)
        assert len(declared) == len(set(declared))
        known = set(Capability.values()) - {Capability.CAPABILITY_UNSPECIFIED}
        assert set(declared) <= known, "upgrade the kit, or remove capabilities that nobody knows"

    @case(is_error=True)
    async def test_nothing_is_both_declared_and_unsupported(self, bench: Bench) -> None:
        declared = {capability_word(item) for item in bench.manifest.capabilities}
        assert declared.isdisjoint(bench.profile.unsupported), "the profile contradicts the manifest"

    @case()
    async def test_it_says_the_same_again(self, bench: Bench) -> None:
        for _ in range(TIMES):
            answer = await bench.call("GetBackend", pb.GetBackendRequest())
            assert answer.manifest == bench.manifest


class Settings(Suite):
    """The options schema, against which every job is checked at submit."""

    @case()
    async def test_its_options_are_an_object_schema(self, bench: Bench) -> None:
        schema = json_format.MessageToDict(bench.manifest.options_schema)
        if not schema:
            return  # a backend without options
        assert schema.get("type") == "object"
        assert isinstance(schema.get("properties", {}), dict)

    @case()
    async def test_each_option_says_its_type_and_what_it_does(self, bench: Bench) -> None:
        schema = json_format.MessageToDict(bench.manifest.options_schema)
        for name, option in schema.get("properties", {}).items():
            types = option.get("type", [])
            assert {types} if isinstance(types, str) else set(types), f"{name}: no type"
            assert ({types} if isinstance(types, str) else set(types)) <= _JSON_TYPES, f"{name}: {types}"
            assert option.get("description"), f"{name}: no description, which is its documentation"

    @case(is_error=True)
    async def test_an_unknown_option_is_refused_by_its_schema(self, bench: Bench) -> None:
        schema = json_format.MessageToDict(bench.manifest.options_schema)
        if schema:
            assert schema.get("additionalProperties") is False, "a mistyped option would be ignored"

    @case(is_error=True)
    async def test_the_options_of_the_profile_exist(self, bench: Bench) -> None:
        schema = json_format.MessageToDict(bench.manifest.options_schema)
        assert set(bench.profile.options) <= set(schema.get("properties", {}))
