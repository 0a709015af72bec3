"""What cannot be served as it would be trained is refused at submit, with the nearest that can."""

from __future__ import annotations

import json

import pytest
from resolve_lab import CONFIG, TRAINERS, base_facts, chosen, reasons, refusal, resolve, texts, train_spec

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import ChosenBackend, check_backend, require_deployable

_UNSUPPORTED = Reason.CAPABILITY_UNSUPPORTED
_PEFT_OPTIONS = {
    "type": "object",
    "properties": {
        "init_lora_weights": {"type": "string"},
        "modules_to_save": {"type": "array"},
        "bias": {"type": "string"},
    },
}


def meant_for(engine: str, *, rank: int = 0, merge: bool = False, **options: object) -> JobSpec:
    spec = train_spec()
    spec.train.intended_serving.engine = engine
    if rank:
        spec.train.adapter.lora.rank = rank
    if merge:
        spec.train.merge = True
    for name, value in options.items():
        spec.backend_options[name] = value
    return spec


def peft() -> ChosenBackend:
    return chosen(options_schema=_PEFT_OPTIONS)


def of_class(architecture: str, model_type: str = "tiny") -> BaseFacts:
    config = {**CONFIG, "architectures": [architecture]}
    return base_facts(config_json=json.dumps(config), model_type=model_type)


@pytest.mark.parametrize(
    ("rank", "near"), [(24, "32 or 16"), (12, "16 or 8"), (600, "512"), (400, "512 or 320")]
)
def test_a_rank_that_the_engine_does_not_have_is_refused_with_the_nearest(rank: int, near: str) -> None:
    error = refusal(_UNSUPPORTED, lambda: resolve(meant_for("vllm", rank=rank)))
    assert error.metadata == {
        "field": "train.adapter.lora.rank", "engine": "vllm", "capability": "RANK",
    }  # fmt: skip
    assert f"set train.adapter.lora.rank to {near}" in error.hint
    assert "merge: true" in error.hint
    assert resolve(meant_for("vllm", rank=rank, merge=True)).spec.spec.train.merge


@pytest.mark.parametrize("rank", [1, 8, 16, 320, 512])
def test_a_rank_that_the_engine_has_is_taken(rank: int) -> None:
    assert resolve(meant_for("vllm", rank=rank)).spec.spec.train.adapter.lora.rank == rank
    assert resolve(meant_for("sglang", rank=24)), "the list is that of one engine"


@pytest.mark.parametrize(
    ("engine", "option", "value", "why"),
    [
        ("vllm", "init_lora_weights", "pissa", "changes the weights of the base"),
        ("sglang", "init_lora_weights", "loftq", "changes the weights of the base"),
        ("vllm", "modules_to_save", ["embed_tokens"], "trained whole"),
        ("vllm", "bias", "all", "bias"),
    ],
)
def test_what_a_backend_would_write_is_refused_by_the_name_of_the_option(
    engine: str, option: str, value: object, why: str
) -> None:
    spec = meant_for(engine, **{option: value})
    error = refusal(_UNSUPPORTED, lambda: resolve(spec, backend=peft()))
    assert error.metadata["field"] == f"backend_options.{option}"
    assert why in error.message
    assert "merge: true" in error.hint
    assert f"leave backend_options.{option} out" in error.hint
    spec.train.merge = True
    assert resolve(spec, backend=peft())
    assert resolve(meant_for(engine, init_lora_weights="gaussian", bias="none"), backend=peft())


def test_what_no_engine_serves_is_refused_without_one_in_mind_too() -> None:
    error = refusal(_UNSUPPORTED, lambda: resolve(meant_for("", init_lora_weights="pissa"), backend=peft()))
    assert "no engine of the fleet serves it" in error.message


def test_the_merge_is_offered_only_where_the_backend_merges() -> None:
    lacking = [item for item in TRAINERS if item != Capability.CAPABILITY_MERGE]
    error = refusal(
        _UNSUPPORTED, lambda: resolve(meant_for("vllm", rank=24), backend=chosen(capabilities=lacking))
    )
    assert error.hint == "Set train.adapter.lora.rank to 32 or 16."


def test_a_base_that_the_engine_has_no_class_for_is_refused_with_an_engine_that_has() -> None:
    odd = of_class("OddForCausalLM")
    error = refusal(_UNSUPPORTED, lambda: resolve(meant_for("vllm"), facts=odd))
    assert error.metadata["field"] == "train.intended_serving.engine"
    assert "has none of OddForCausalLM" in error.message
    assert error.hint == "Set train.intended_serving.engine: embedded."
    assert resolve(meant_for("embedded"), facts=odd)
    assert resolve(meant_for("vllm"), facts=of_class("Qwen3ForCausalLM"))


def test_a_base_that_says_nothing_of_its_class_is_let_through() -> None:
    for config in ("", "[]", json.dumps({"architectures": "Qwen3ForCausalLM"})):
        assert resolve(meant_for("vllm"), facts=base_facts(config_json=config))


def test_the_refusal_comes_before_the_rows_are_read() -> None:
    error = refusal(_UNSUPPORTED, lambda: check_backend(meant_for("vllm", rank=24), chosen().manifest))
    assert error.metadata["field"] == "train.adapter.lora.rank"


def test_an_unknown_engine_is_taken_at_its_word() -> None:
    assert "Nothing is known" not in texts(resolve(meant_for("abacus", rank=24)))
    spec = meant_for("abacus", init_lora_weights="pissa")
    assert "adapter with init pissa" in texts(resolve(spec, backend=peft()))


def test_a_deployment_on_an_engine_without_that_rank_is_refused() -> None:
    trained = resolve(meant_for("", rank=24)).spec.spec.train
    error = refusal(_UNSUPPORTED, lambda: require_deployable(trained, "vllm"))
    assert "cannot serve this adapter (rank 24)" in error.message
    require_deployable(trained, "embedded")
    assert "train.adapter.lora.rank" not in reasons(resolve(meant_for("", rank=24)))
