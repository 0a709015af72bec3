"""Adapters on routed experts at submit: what they default to, need, exclude, and who serves them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from resolve_lab import CONFIG, FAMILY, TRAINERS, base_facts, chosen, reasons, refusal, resolve, texts
from resolve_lab import train_spec as plain_spec

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts, TensorFact
from tunefleet_core.catalog import Format, FormatRegistry
from tunefleet_core.catalog.format import Variant
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve import Resolution, check_backend, draft_train, require_deployable
from tunefleet_core.resolve.estimate import estimate_train
from tunefleet_core.spec import find_violations

MOE = replace(FAMILY, expert_parameters=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"))
PARAMETERS = ["model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp.experts.gate_up_proj"]
BACKEND = [*TRAINERS, Capability.CAPABILITY_EXPERT_LORA]
NF4 = Format(name="nf4", summary="s", variants=(Variant(name="", bits_per_weight=4.127),))
_UNSUPPORTED = Reason.CAPABILITY_UNSUPPORTED


def facts() -> BaseFacts:
    experts = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": [16, 8] for n in range(4)}
    found = base_facts(config_json=json.dumps({**CONFIG, "num_experts": 4, "moe_intermediate_size": 16}))
    found.tensors.extend(TensorFact(name=name, shape=shape, dtype="BF16") for name, shape in experts.items())
    return found


def spec_with_experts(*, engine: str = "", merge: bool = False) -> JobSpec:
    spec = plain_spec()
    spec.train.adapter.lora.experts = True
    if engine:
        spec.train.intended_serving.engine = engine
    if merge:
        spec.train.merge = True
    return spec


def resolved(spec: JobSpec) -> Resolution:
    return resolve(spec, facts=facts(), family=MOE, backend=chosen(capabilities=BACKEND))


def test_experts_are_left_alone_unless_asked_for() -> None:
    resolution = resolved(plain_spec())
    assert not resolution.spec.target_parameters
    assert reasons(resolution)["train.adapter.lora.experts"] == (
        "false",
        "attention and dense layers; experts are an option",
    )


def test_experts_are_resolved_to_full_names_without_dropout_and_counted() -> None:
    without, resolution = resolved(plain_spec()), resolved(spec_with_experts())
    assert list(resolution.spec.target_parameters) == PARAMETERS
    assert resolution.spec.target_modules == without.spec.target_modules
    value, why = reasons(resolution)["train.adapter.lora.dropout"]
    assert (value, why) == ("0", "the library has no dropout for adapters on routed experts")
    more = resolution.spec.estimate.trainable_parameters - without.spec.estimate.trainable_parameters
    assert more == 4 * 16 * (8 + 32) + 4 * 16 * (8 + 16)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"dora": True}, "train.adapter.lora.experts"), ({"dropout": 0.1}, "train.adapter.lora.dropout")],
)
def test_what_the_library_refuses_is_refused_at_submit(change: dict[str, object], field: str) -> None:
    spec = spec_with_experts()
    for name, value in change.items():
        setattr(spec.train.adapter.lora, name, value)
    assert [violation.field for violation in find_violations(spec)] == [field]


def test_a_base_without_experts_is_refused() -> None:
    error = refusal(Reason.FIELD_INVALID, lambda: draft_train(spec_with_experts(), base_facts(), MOE))
    assert error.metadata["field"] == "train.adapter.lora.experts"


def test_a_backend_that_cannot_train_experts_is_refused_by_name() -> None:
    error = refusal(_UNSUPPORTED, lambda: check_backend(spec_with_experts(), chosen().manifest))
    assert error.metadata["capability"] == "EXPERT_LORA"
    assert error.metadata["field"] == "train.adapter.lora.experts"


@pytest.mark.parametrize("engine", ["embedded", "vllm", "sglang"])
def test_an_engine_that_cannot_serve_them_is_refused_with_the_merge_as_the_way_out(engine: str) -> None:
    error = refusal(_UNSUPPORTED, lambda: resolved(spec_with_experts(engine=engine)))
    assert error.metadata == {
        "field": "train.adapter.lora.experts",
        "engine": engine,
        "capability": "EXPERTS",
    }
    assert "merge: true" in error.hint
    assert list(resolved(spec_with_experts(engine=engine, merge=True)).spec.target_parameters) == PARAMETERS


def test_without_an_engine_in_mind_it_is_said_that_none_serves_them() -> None:
    assert "No engine serves an adapter on routed experts" in texts(resolved(spec_with_experts()))
    assert "routed experts" not in texts(resolved(spec_with_experts(merge=True)))


@pytest.mark.parametrize("engine", ["embedded", "vllm", "sglang"])
def test_a_deployment_of_such_an_adapter_is_refused_before_its_engine_starts(engine: str) -> None:
    with pytest.raises(TunefleetError) as caught:
        require_deployable(spec_with_experts().train, engine)
    assert caught.value.reason is _UNSUPPORTED
    assert f"'{engine}' cannot serve this adapter (experts)" in caught.value.message
    assert "tunefleet export" in caught.value.hint
    require_deployable(plain_spec().train, engine)


def test_experts_stay_whole_numbers_where_linear_layers_are_rounded_while_loading() -> None:
    dense, experts = base_facts(), facts()
    per_expert = 16 * 8
    experts.parameter_count = dense.parameter_count + 4 * per_expert
    formats = FormatRegistry([NF4])
    spec = plain_spec().train
    spec.dtype, spec.quantization, spec.max_length = "bfloat16", "nf4", 64
    weights = [
        estimate_train(spec, found, [], total_steps=1, formats=formats).weights_bytes
        for found in (dense, experts)
    ]
    assert weights[1] - weights[0] == 2 * 4 * per_expert
