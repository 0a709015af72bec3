"""A prompt of learned embeddings: what it is planned as, and who refuses it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from resolve_lab import FAMILY, TRAINERS, base_facts, chosen, reasons, refusal, resolve, texts, train_spec

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.job.v1.resolved_pb2 import ResolvedAdapter, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import check_backend, require_deployable, resolve_export
from tunefleet_core.spec import find_violations, written_rank

FIELD = "train.adapter.prompt_tuning"
BACKEND = chosen(capabilities=[*TRAINERS, Capability.CAPABILITY_PROMPT_TUNING])


def prompt_spec(engine: str = "") -> JobSpec:
    spec = train_spec(adapter=False)
    spec.train.adapter.prompt_tuning.SetInParent()
    spec.train.intended_serving.engine = engine
    return spec


def test_it_is_planned_with_its_own_rate_and_size() -> None:
    found = resolve(prompt_spec(), facts=base_facts(max_positions=200), backend=BACKEND)
    assert reasons(found)[f"{FIELD}.num_virtual_tokens"][0] == "20"
    assert reasons(found)["train.optim.learning_rate"][0] == "0.01"
    assert found.spec.estimate.trainable_parameters == 20 * 8
    assert found.spec.spec.train.max_length == 180, "the rest of the model's positions"
    assert not found.spec.target_modules
    assert "learning rate" not in texts(found)
    assert written_rank(found.spec.spec.train) == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda spec: spec.train.method.dpo.SetInParent(), FIELD),
        (lambda spec: setattr(spec.train, "merge", True), "train.merge"),
        (lambda spec: setattr(spec.train.method.sft, "packing", True), "train.method.sft.packing"),
        (lambda spec: setattr(spec.resources, "devices", 2), "resources.devices"),
        (
            lambda spec: setattr(spec.train.adapter.prompt_tuning, "num_virtual_tokens", 0),
            f"{FIELD}.num_virtual_tokens",
        ),
        (lambda spec: setattr(spec.train.adapter.prompt_tuning, "init_text", "  "), f"{FIELD}.init_text"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused_at_its_field(change: object, field: str) -> None:
    spec = prompt_spec()
    assert find_violations(spec) == []
    change(spec)  # type: ignore[operator]
    assert [violation.field for violation in find_violations(spec)] == [field]


def test_a_backend_without_it_is_refused_by_name() -> None:
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: check_backend(prompt_spec(), chosen().manifest))
    assert (error.metadata["capability"], error.metadata["field"]) == ("PROMPT_TUNING", FIELD)
    assert "lora" in error.hint


@pytest.mark.parametrize("engine", ["vllm", "sglang", "mlx"])
def test_an_engine_that_knows_lora_alone_is_refused_with_the_one_that_serves_it(engine: str) -> None:
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(prompt_spec(engine), backend=BACKEND))
    assert error.metadata == {"field": FIELD, "engine": engine, "capability": "PROMPT_TUNING"}
    assert "set train.intended_serving.engine: embedded" in error.hint.lower()
    assert "merge" not in error.hint
    train = resolve(prompt_spec("embedded"), backend=BACKEND).spec.spec.train
    require_deployable(train, "embedded")
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: require_deployable(train, engine))
    assert error.hint == "Deploy it with the engine embedded."


def test_it_is_not_merged_later_either() -> None:
    trained = ResolvedSpec(base=base_facts(), spec=prompt_spec())
    spec = JobSpec(name="whole")
    spec.export.model.model = "models/tickets"
    spec.export.merge.SetInParent()
    error = refusal(
        Reason.FIELD_INVALID,
        lambda: resolve_export(
            spec, trained, ResolvedAdapter(model="tickets"), facts=base_facts(), backend=BACKEND
        ),
    )
    assert "nothing can be merged" in error.message


def test_a_family_whose_layers_look_at_ids_is_refused() -> None:
    family = replace(FAMILY, reads_ids="its layers look at ids")
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(prompt_spec(), family=family, backend=BACKEND))
    assert "its layers look at ids" in error.message
