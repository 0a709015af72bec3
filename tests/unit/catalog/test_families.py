"""Families: recognised by model type; which modules and which template they choose."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from tunefleet.model.v1.base_pb2 import BaseFacts, SpecialToken, TensorFact
from tunefleet_core.catalog import (
    Family,
    FamilyRegistry,
    adapter_parameters,
    choose_template,
    has_generation_markers,
    select_target_modules,
)
from tunefleet_core.catalog.family import TemplateVariant
from tunefleet_core.catalog.loaded_names import loaded_name
from tunefleet_core.errors import Reason, TunefleetError

MARKED = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
FAMILY = Family(
    name="qwen3",
    model_types=("qwen3", "qwen3_moe"),
    chat_template=MARKED,
    template_origin="the test",
    stop_tokens=("<|im_end|>", "<|absent|>"),
    target_suffixes=("q_proj", "k_proj", "up_proj"),
)
SHAPES = {
    "lm_head.weight": [100, 8],
    "model.embed_tokens.weight": [100, 8],
    "model.norm.weight": [8],
    "model.layers.1.self_attn.q_proj.weight": [16, 8],
    "model.layers.0.self_attn.q_proj.weight": [16, 8],
    "model.layers.0.self_attn.q_proj.bias": [16],
    "model.layers.0.mlp.up_proj.weight": [32, 8],
    "model.layers.0.mlp.gate.weight": [4, 8],
    "model.layers.0.mlp.experts.0.up_proj.weight": [32, 8],
    "model.layers.0.mlp.experts.fused.weight": [4, 32, 8],
    "visual.blocks.0.q_proj.weight": [16, 8],
}
FACTS = BaseFacts(
    model="org/tiny",
    model_type="qwen3",
    tensors=[TensorFact(name=name, shape=shape, dtype="BF16") for name, shape in SHAPES.items()],
    eos_token_ids=[3],
    special_tokens=[SpecialToken(id=7, text="<|im_end|>"), SpecialToken(id=3, text="<|endoftext|>")],
)
LAYER = "model.layers.0"


def with_template(text: str) -> BaseFacts:
    facts = BaseFacts()
    facts.CopyFrom(FACTS)
    facts.chat_template = text
    return facts


def test_a_family_is_found_by_any_of_its_model_types() -> None:
    registry = FamilyRegistry([FAMILY])
    assert registry.for_model_type("qwen3_moe") is FAMILY
    assert registry.model_types() == ("qwen3", "qwen3_moe")


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ([FAMILY], "No family plugin knows the model type 'qwen_3'; the nearest known one is 'qwen3'."),
        ([], "No family plugin knows the model type 'qwen_3'."),
    ],
)
def test_an_unknown_model_type_names_the_nearest(families: list[Family], expected: str) -> None:
    with pytest.raises(TunefleetError) as caught:
        FamilyRegistry(families).for_model_type("qwen_3")
    assert (caught.value.message, caught.value.reason) == (expected, Reason.BASE_INVALID)


def test_all_linear_reaches_the_familys_dense_modules_and_nothing_else() -> None:
    expected = [f"{LAYER}.mlp.up_proj", f"{LAYER}.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    assert select_target_modules(FACTS, FAMILY, []) == expected
    assert select_target_modules(FACTS, FAMILY, ["all-linear"]) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("up_proj", [f"{LAYER}.mlp.experts.0.up_proj", f"{LAYER}.mlp.up_proj"]),
        ("mlp.up_proj", [f"{LAYER}.mlp.up_proj"]),
        (f"{LAYER}.self_attn.q_proj", [f"{LAYER}.self_attn.q_proj"]),
    ],
)
def test_a_named_target_is_the_end_of_a_module_path(target: str, expected: list[str]) -> None:
    assert select_target_modules(FACTS, FAMILY, [target]) == expected


def test_several_targets_are_joined_without_repeats() -> None:
    both = select_target_modules(FACTS, FAMILY, ["all-linear", "q_proj", "gate"])
    assert both == sorted(set(both))
    assert f"{LAYER}.mlp.gate" in both


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("q_prj", "'q_prj' matches no linear module of 'org/tiny'; did you mean 'q_proj'?"),
        ("self_attn.zz", "'self_attn.zz' matches no linear module of 'org/tiny'"),
        ("fused", "'fused' matches no linear module of 'org/tiny'"),
        ("norm", "'norm' matches no linear module of 'org/tiny'"),
        ("lm_head", "'lm_head' is the head or an embedding, which gets no adapter"),
        ("model.embed_tokens", "'model.embed_tokens' is the head or an embedding, which gets no adapter"),
    ],
)
def test_a_target_that_matches_nothing_is_refused(target: str, expected: str) -> None:
    with pytest.raises(TunefleetError) as caught:
        select_target_modules(FACTS, FAMILY, ["q_proj", target])
    assert caught.value.message == f"train.adapter.lora.targets: {expected}"
    assert caught.value.reason is Reason.FIELD_INVALID


def test_all_linear_of_a_base_without_such_modules_is_refused() -> None:
    with pytest.raises(TunefleetError, match="'all-linear' finds no module of the family 'qwen3' in 'x'"):
        select_target_modules(BaseFacts(model="x"), FAMILY, [])


@pytest.mark.parametrize("config", ['{"num_hidden_layers": 1}', '{"text_config": {"num_hidden_layers": 1}}'])
def test_a_layer_after_the_last_one_is_not_loaded_and_gets_no_adapter(config: str) -> None:
    facts = BaseFacts(config_json=config)
    facts.tensors.extend(FACTS.tensors)
    assert select_target_modules(facts, FAMILY, []) == [f"{LAYER}.mlp.up_proj", f"{LAYER}.self_attn.q_proj"]


def test_a_model_whose_files_name_modules_otherwise_gets_the_loaded_names() -> None:
    names = ["language_model.model.layers.0.self_attn.q_proj.weight", "vision_tower.layers.0.q_proj.weight"]
    tensors = [TensorFact(name=name, shape=[16, 8], dtype="BF16") for name in names]
    facts = BaseFacts(model_type="gemma3", tensors=tensors)
    targets = select_target_modules(facts, FAMILY, [])
    assert targets == ["model.language_model.layers.0.self_attn.q_proj"]
    assert adapter_parameters(facts, targets, 4) == 4 * (16 + 8)


def test_adapter_parameters_are_rank_times_inputs_plus_outputs() -> None:
    targets = [f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp.up_proj"]
    assert adapter_parameters(FACTS, targets, 4) == 4 * (16 + 8) + 4 * (32 + 8)


def test_the_bases_own_template_wins_if_it_has_markers() -> None:
    chosen = choose_template(with_template(MARKED), FAMILY)
    assert (chosen.template.source, chosen.must_match, chosen.notice) == ("base", "", "")
    assert chosen.template.sha256 == hashlib.sha256(MARKED.encode()).hexdigest()
    assert list(chosen.template.stop_token_ids) == [3, 7]
    assert chosen.template.family == "qwen3"


def test_the_familys_template_must_match_a_base_template_without_markers() -> None:
    chosen = choose_template(with_template(PLAIN), FAMILY)
    assert (chosen.template.text, chosen.template.source) == (MARKED, "family:qwen3")
    assert (chosen.must_match, chosen.notice) == (PLAIN, "")


def test_a_base_without_template_gets_the_familys_and_a_notice() -> None:
    chosen = choose_template(with_template(""), FAMILY)
    assert (chosen.template.source, chosen.must_match) == ("family:qwen3", "")
    assert chosen.notice == "The base has no chat template; that of the family 'qwen3' is used."


def test_the_clock_is_kept_only_if_the_template_asks_for_it() -> None:
    asking = MARKED + "{{ strftime_now('%d') }}"
    kept = choose_template(with_template(asking), FAMILY, frozen_time_seconds=9)
    assert kept.template.frozen_time_seconds == 9
    assert choose_template(FACTS, FAMILY, frozen_time_seconds=9).template.frozen_time_seconds == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{%- generation -%}", True), ("{%generation%}", True), ("{% endgeneration %}", False), ("", False)],
)
def test_markers_are_found_in_every_spelling(text: str, expected: bool) -> None:
    assert has_generation_markers(text) is expected


def test_a_base_of_another_form_gets_the_variant_that_its_template_names() -> None:
    other = MARKED + " "
    variant = TemplateVariant(
        name="other", contains=("content",), lacks=("never",), chat_template=other, origin="the test"
    )
    family = replace(FAMILY, variants=(variant,))
    chosen = choose_template(with_template(PLAIN), family)
    assert (chosen.template.text, chosen.template.source) == (other, "family:qwen3/other")
    assert chosen.must_match == PLAIN
    for own in (PLAIN + "never", ""):
        assert choose_template(with_template(own), family).template.text == MARKED


def test_a_type_that_is_known_and_unsupported_is_refused_by_what_does_not_support_it() -> None:
    family = replace(FAMILY, unsupported_types={"qwen9": "transformers 5.23: it does not know this type"})
    with pytest.raises(TunefleetError) as caught:
        FamilyRegistry([family]).for_model_type("qwen9")
    assert caught.value.reason is Reason.BASE_INVALID
    assert caught.value.message == (
        "Bases of the type 'qwen9' (family 'qwen3') are unsupported by transformers 5.23: "
        "it does not know this type."
    )
    assert caught.value.metadata["unsupported_by"] == "transformers 5.23"
    assert "qwen3, qwen3_moe" in caught.value.hint
    assert "qwen9" not in FamilyRegistry([family]).model_types()


def test_a_frozen_part_of_a_family_gets_no_adapter_unless_it_is_named() -> None:
    family = replace(FAMILY, frozen_parts=("self_attn",))
    assert select_target_modules(FACTS, family, []) == [f"{LAYER}.mlp.up_proj"]
    assert f"{LAYER}.self_attn.q_proj" in select_target_modules(FACTS, family, ["q_proj"])


@pytest.mark.parametrize(
    ("model_type", "filed", "loaded"),
    [
        ("qwen3", "model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("gemma3", "language_model.model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj"),
        ("qwen3_5", "model.language_model.layers.1.", "model.layers.1."),
        ("deepseek_v4", "layers.2.attn.wo_b", "model.layers.2.self_attn.o_b_proj"),
        ("deepseek_v4", "model.layers.2.ffn.shared_experts.w3", "model.layers.2.mlp.shared_experts.up_proj"),
        (
            "deepseek_v4",
            "layers.3.attn.indexer.compressor.wgate",
            "model.layers.3.self_attn.compressor.indexer.gate_proj",
        ),
        ("deepseek_v4", "head", "lm_head"),
    ],
)
def test_modules_are_named_as_they_are_loaded(model_type: str, filed: str, loaded: str) -> None:
    assert loaded_name(model_type, filed) == loaded
