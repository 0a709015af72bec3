"""The matrix: what combines with what, how that is known, and what to do instead."""

from __future__ import annotations

import dataclasses

import pytest

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability, FormatScope, MethodLimit
from tunefleet_core.backend import backend_manifest
from tunefleet_core.catalog import Family
from tunefleet_core.catalog.engines import engine_registries
from tunefleet_core.catalog.format import EngineSupport, Format, Variant
from tunefleet_core.catalog.matrix import (
    ADAPTATIONS,
    ENGINES,
    METHODS,
    Cell,
    Matrix,
    Proofs,
    Published,
    Standing,
    Verdict,
    combinations,
    config_traits,
    judge_adapter,
    judge_class,
    nearest_ranks,
    proof_record,
    proofs,
    record,
)
from tunefleet_core.catalog.matrix.training import spec_of
from tunefleet_core.spec.rules import find_violations

TRAINS = [
    Capability.CAPABILITY_TRAIN,
    Capability.CAPABILITY_SFT,
    Capability.CAPABILITY_LORA,
    Capability.CAPABILITY_RSLORA,
    Capability.CAPABILITY_DORA,
    Capability.CAPABILITY_EXPERT_LORA,
    Capability.CAPABILITY_FULL_FINE_TUNING,
    Capability.CAPABILITY_QLORA_NF4,
    Capability.CAPABILITY_MERGE,
    Capability.CAPABILITY_INSPECT,
]
NF4 = Format(name="nf4", summary="s", variants=(Variant(name="", bits_per_weight=4.1),))
AWQ = Format(
    name="awq",
    summary="s",
    variants=(Variant(name="", bits_per_weight=4.2),),
    engines={"vllm": EngineSupport(source="vLLM 0.33, docs/features/quantization")},
)


def family(name: str, model_type: str, *, experts: tuple[str, ...] = ()) -> Family:
    return Family(
        name=name,
        model_types=(model_type,),
        chat_template="",
        template_origin="the test",
        stop_tokens=(),
        target_suffixes=("q_proj",),
        expert_parameters=experts,
    )


QWEN3 = family("qwen3", "qwen3")
MOE = family("qwen3_moe", "qwen3_moe", experts=("mlp.experts.gate_up_proj",))
RAN = Proofs(
    trained={"trl/sft/lora//qwen3": "test_trained", "trl/sft/lora/nf4/qwen3": "test_quantised"},
    served={"embedded/lora/qwen3": "test_served"},
    architectures={"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"},
)


def trainer(name: str = "trl", **changes: object) -> BackendManifest:
    arguments: dict[str, object] = {
        "name": name,
        "distribution": "tunefleet-absent",
        "summary": "s",
        "capabilities": TRAINS,
        "device_kinds": ["cpu"],
    }
    return backend_manifest(**{**arguments, **changes})  # type: ignore[arg-type]


def matrix(*backends: BackendManifest, ran: Proofs = RAN) -> Matrix:
    return Matrix.of(backends or [trainer()], [QWEN3, MOE], [NF4, AWQ], ran=ran)


def judged(adaptation: str, *, engine: str = "", quantization: str = "", of: str = "qwen3") -> Verdict:
    cell = Cell(
        backend="trl", method="sft", adaptation=adaptation, format=quantization, family=of, engine=engine
    )
    return matrix().judge(cell)


def test_what_a_test_ran_is_proven_and_names_the_test() -> None:
    assert judged("lora") == Verdict(standing=Standing.PROVEN, reason="test_trained")
    assert judged("lora", quantization="nf4").reason == "test_quantised"
    both = judged("lora", engine="embedded")
    assert (both.standing, both.reason) == (Standing.PROVEN, "test_trained; test_served")


def test_what_a_library_states_says_who_states_it() -> None:
    assert judged("rslora") == Verdict(standing=Standing.STATED, reason="tunefleet-absent declares it")
    found = judged("lora", engine="vllm")
    assert found.standing is Standing.STATED
    assert "takes adapters on Qwen3ForCausalLM" in found.reason
    assert "vLLM 0.33" in found.reason


@pytest.mark.parametrize(
    ("adaptation", "engine", "quantization", "of", "reason", "instead"),
    [
        ("dora", "vllm", "", "qwen3", "its loader refuses DoRA", "train.merge: true, and vllm serves"),
        ("dora", "sglang", "", "qwen3", "it refuses DoRA", "train.merge: true, and sglang serves"),
        ("dora", "embedded", "", "qwen3", "cannot mix DoRA", "train.merge: true, and embedded serves"),
        ("expert_lora", "vllm", "", "qwen3_moe", "the wrong way round", "train.merge: true, and vllm"),
        ("expert_lora", "", "", "qwen3", "no routed experts", "leave train.adapter.lora.experts out"),
        ("full", "", "nf4", "qwen3", "cannot be trained in full", "add adapter: {lora: {}}"),
        ("lora", "", "awq", "qwen3", "does not train on this format", "take a base that is not quantised"),
    ],
)  # fmt: skip
def test_what_does_not_work_says_why_and_what_does(
    adaptation: str, engine: str, quantization: str, of: str, reason: str, instead: str
) -> None:
    found = judged(adaptation, engine=engine, quantization=quantization, of=of)
    assert found.standing is Standing.NO
    assert reason in found.reason
    assert found.instead.startswith(instead)


def test_the_nearest_of_several_is_the_one_that_changes_least() -> None:
    lacking = trainer(capabilities=[item for item in TRAINS if item != Capability.CAPABILITY_DORA])
    other = trainer("other")
    cell = Cell(backend="trl", method="sft", adaptation="dora", family="qwen3")
    assert matrix(lacking, other).judge(cell).instead == "leave train.adapter.lora.dora out"
    bare = trainer(
        capabilities=[
            Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_SFT, Capability.CAPABILITY_INSPECT
        ]
    )  # fmt: skip
    assert matrix(bare, other).judge(cell).instead == "backend: other"
    assert matrix(bare).judge(cell).instead == "", "nothing works there, so nothing is offered"


def test_an_engine_must_load_what_is_stored_quantised_but_not_what_is_quantised_to_be_trained() -> None:
    on_awq = trainer(trained_formats=["awq"])
    cell = Cell(backend="trl", method="sft", adaptation="lora", format="awq", family="qwen3", engine="vllm")
    assert matrix(on_awq).judge(cell).works
    refused = matrix(on_awq).judge(dataclasses.replace(cell, engine="sglang"))
    assert (refused.standing, refused.reason) == (Standing.NO, "sglang is not known to load this format")
    assert judged("lora", engine="sglang", quantization="nf4").works


def test_a_format_that_is_trained_on_for_some_types_is_refused_for_the_other_families() -> None:
    scope = FormatScope(format="awq", model_types=["qwen3_moe"])
    backend = trainer(trained_formats=["awq"], trained_scopes=[scope])
    cell = Cell(backend="trl", method="sft", adaptation="lora", format="awq", family="qwen3")
    found = matrix(backend).judge(cell)
    assert found.reason == "the backend 'trl' trains on awq for the type qwen3_moe only"
    assert found.instead == "take a base that is not quantised"
    assert matrix(backend).judge(dataclasses.replace(cell, family="qwen3_moe")).works


def test_a_method_that_is_not_for_a_family_says_why() -> None:
    limit = MethodLimit(method="kto", model_types=["qwen3_moe"], reason="it has no thumbs")
    backend = trainer(methods=["kto", "dpo"], method_limits=[limit])
    cell = Cell(backend="trl", method="kto", adaptation="lora", family="qwen3_moe")
    found = matrix(backend).judge(cell)
    assert found.reason == "the backend 'trl' does not train it by kto: it has no thumbs"
    assert matrix(backend).judge(dataclasses.replace(cell, method="dpo")).works
    assert matrix(backend).judge(dataclasses.replace(cell, family="qwen3")).works
    assert matrix(backend, trainer("other", methods=["kto"])).judge(cell).instead == "backend: other"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_a_backend_has_is_not_refused_for_what_a_job_would_have_to_say(method: str) -> None:
    assert not list(find_violations(spec_of(method, "lora", "")))
    cell = Cell(backend="trl", method=method, adaptation="lora", family="qwen3")
    assert matrix(trainer(methods=METHODS)).judge(cell).works


def test_every_combination_is_listed_once_and_what_does_not_work_offers_what_does() -> None:
    found = list(combinations(matrix()))
    cells = [cell for cell, _ in found]
    assert len(set(cells)) == len(cells) == 2 * len(ADAPTATIONS) * 3 * (len(ENGINES) + 1)
    assert cells == sorted(cells, key=lambda cell: cell.order)
    assert all(verdict.reason for _, verdict in found)
    assert all(bool(verdict.instead) is not verdict.works for _, verdict in found)
    only = list(combinations(matrix(), families=["qwen3"], engines=["vllm"], standing=Standing.NO))
    assert {(cell.family, cell.engine) for cell, _ in only} == {("qwen3", "vllm")}
    assert {verdict.standing for _, verdict in only} == {Standing.NO}


def test_a_backend_that_looks_at_no_base_is_listed_for_any_family_and_serves_what_it_trained() -> None:
    blind = trainer(
        "echo",
        capabilities=[
            Capability.CAPABILITY_TRAIN,
            Capability.CAPABILITY_SFT,
            Capability.CAPABILITY_LORA,
            Capability.CAPABILITY_SERVE,
        ],
    )
    found = {(cell.family, cell.engine) for cell, _ in combinations(matrix(blind))}
    assert found == {("", ""), ("", "echo")}


def test_a_trainer_that_only_shares_an_engines_name_does_not_serve_what_it_trained() -> None:
    cell = Cell(backend="sglang", method="sft", adaptation="dora", family="qwen3", engine="sglang")
    trains = [*TRAINS, Capability.CAPABILITY_DORA]
    verdict = matrix(trainer("sglang", capabilities=trains)).judge(cell)
    assert (verdict.standing, verdict.reason) == (Standing.NO, ENGINES["sglang"].refuses["dora"])
    serves = trainer("sglang", capabilities=[*trains, Capability.CAPABILITY_SERVE])
    assert matrix(serves).judge(cell).reason.endswith("'sglang' serves what it trained")


@pytest.mark.parametrize(
    ("config", "field", "reason"),
    [
        ({"use_dora": True}, "use_dora", "refuses DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights", "changes the weights of the base"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights", "changes the weights of the base"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save", "trained whole"),
        ({"bias": "lora_only"}, "bias", "bias"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters", "3-D experts"),
        ({"r": 24}, "r", "its ranks are 1, 8, 16, 32, 64, 128, 256, 320, 512; 24 is none"),
        ({"r": 600}, "r", "the largest rank it serves is 512, and this is 600"),
    ],
)
def test_what_vllm_refuses_is_read_from_the_config_of_an_adapter(
    config: dict[str, object], field: str, reason: str
) -> None:
    verdict = judge_adapter("vllm", config_traits({"r": 16, **config}))
    assert (verdict.standing, verdict.field) == (Standing.NO, field)
    assert reason in verdict.reason


def test_what_vllm_serves_is_not_refused() -> None:
    plain = {"r": 16, "init_lora_weights": "gaussian", "bias": "none", "modules_to_save": None}
    assert judge_adapter("vllm", config_traits({**plain, "use_rslora": True})).works
    assert judge_adapter("vllm", config_traits({**plain, "modules_to_save": ["score"]})).works


def test_ranks_come_from_the_engine_itself() -> None:
    ranks = engine_registries()["vllm"].lora_ranks
    assert all(nearest_ranks("vllm", rank) == () for rank in ranks)
    assert nearest_ranks("vllm", 24) == (32, 16)
    assert nearest_ranks("vllm", 600) == (512,)
    assert nearest_ranks("sglang", 24) == () == nearest_ranks("abacus", 24)


def test_a_class_that_an_engine_lacks_is_refused_and_one_nobody_asked_for_is_not_known() -> None:
    odd = Published(family="odd", model_types=("odd",), architectures=("OddForCausalLM",))
    found = judge_class("vllm", odd, is_adapter=False)
    assert (found.standing, "has none of OddForCausalLM" in found.reason) == (Standing.NO, True)
    bare = Published(family="odd", model_types=("odd",))
    assert judge_class("vllm", bare, is_adapter=False).standing is Standing.UNKNOWN
    assert judge_class("mlx", odd, is_adapter=False).standing is Standing.NO
    assert judge_class("abacus", odd, is_adapter=True).standing is Standing.UNKNOWN
    listed = engine_registries()["vllm"]
    with_adapters = {*listed.lora_architectures, *listed.unread_architectures}
    bare_class = next(name for name in listed.architectures if name not in with_adapters)
    no_adapters = Published(family="x", model_types=("x",), architectures=(bare_class,))
    assert judge_class("vllm", no_adapters, is_adapter=False).works
    assert not judge_class("vllm", no_adapters, is_adapter=True).works


def test_the_weaker_of_two_is_what_is_said_of_both() -> None:
    proven = Verdict(standing=Standing.PROVEN, reason="a")
    stated = Verdict(standing=Standing.STATED, reason="b")
    refused = Verdict(standing=Standing.NO, reason="c")
    assert proven.and_then(stated) == stated == stated.and_then(proven)
    assert proven.and_then(proven).reason == "a; a"
    assert stated.and_then(refused) == refused


def test_a_proof_is_written_only_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    path = tmp_path / "proofs.json"
    path.write_text("{}")
    monkeypatch.setattr(proof_record, "_PATH", path)
    monkeypatch.delenv("TUNEFLEET_RECORD_PROOF", raising=False)
    record("served", "embedded/lora/qwen3", "test_a")
    assert path.read_text() == "{}"
    monkeypatch.setenv("TUNEFLEET_RECORD_PROOF", "1")
    record("served", "embedded/lora/qwen3", "test_a")
    record("served", "embedded/lora/llama", "test_b")
    proofs.cache_clear()
    try:
        assert proofs().served == {"embedded/lora/llama": "test_b", "embedded/lora/qwen3": "test_a"}
    finally:
        monkeypatch.undo()
        proofs.cache_clear()
