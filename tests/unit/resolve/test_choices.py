"""What a plan makes of layers, whole modules, initial factors, optimisers; who refuses them."""

from __future__ import annotations

import json

import pytest
from resolve_lab import CONFIG, base_facts, chosen, reasons, refusal, resolve, train_spec

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts, TensorFact
from tunefleet_core.backend.choices import BASICS, train_choices
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import ChosenBackend
from tunefleet_core.spec import written_rank

OPTIMIZERS = ["adamw_8bit", "paged_adamw_8bit"]


def knowing(**changes: object) -> ChosenBackend:
    """A backend that takes whatever the fields may hold."""
    choices = dict.fromkeys(BASICS, ()) | {
        "train.optim.optimizer": OPTIMIZERS,
        "train.gradient_checkpointing": ["true"],
    }
    return chosen("cuda", choices=choices, **changes)


def deeper() -> BaseFacts:
    facts = base_facts(config_json=json.dumps(CONFIG | {"num_hidden_layers": 4}))
    for layer in range(1, 4):
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        facts.tensors.append(TensorFact(name=name, shape=[8, 8], dtype="BF16"))
    facts.tensors.append(TensorFact(name="lm_head.weight", shape=[100, 8], dtype="BF16"))
    return facts


def test_layers_are_ranges_of_what_the_base_has() -> None:
    spec = train_spec()
    spec.train.adapter.lora.layers.extend(["1-2", "3"])
    found = resolve(spec, facts=deeper()).spec.target_modules
    assert list(found) == [f"model.layers.{layer}.self_attn.q_proj" for layer in (1, 2, 3)]
    spec.train.adapter.lora.layers.append("7-9")
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec, facts=deeper()))
    assert "targets in layers up to 3" in error.message


def test_modules_to_save_are_counted_and_only_merged() -> None:
    spec = train_spec()
    spec.train.adapter.lora.modules_to_save.append("lm_head")
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(spec, facts=deeper(), backend=knowing()))
    assert "merge: true" in error.hint
    spec.train.merge = True
    plain = resolve(train_spec(), facts=deeper()).spec.estimate.trainable_parameters
    found = resolve(spec, facts=deeper(), backend=knowing()).spec.estimate.trainable_parameters
    assert found == plain + 800
    spec.train.adapter.lora.modules_to_save[0] = "lm_heads"
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec, facts=deeper(), backend=knowing()))
    assert "did you mean 'lm_head'" in error.message


def test_a_head_that_is_the_embeddings_cannot_be_trained_whole() -> None:
    spec = train_spec()
    spec.train.merge = True
    spec.train.adapter.lora.modules_to_save.append("embed_tokens")
    tied = base_facts(config_json=json.dumps(CONFIG | {"tie_word_embeddings": True}))
    error = refusal(Reason.FIELD_INVALID, lambda: resolve(spec, facts=tied, backend=knowing()))
    assert "one matrix" in error.message


def test_an_adapter_that_is_written_with_twice_the_rank_is_held_to_that() -> None:
    spec = train_spec()
    spec.train.adapter.lora.init = "pissa"
    spec.train.intended_serving.engine = "vllm"
    spec.train.adapter.lora.rank = 256
    resolve(spec, backend=knowing())  # 512 is the largest
    spec.train.adapter.lora.rank = 320
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(spec, backend=knowing()))
    assert "this is 640" in error.message
    assert "leave train.adapter.lora.rank out" in error.hint


def test_an_adapter_of_loftq_keeps_its_rank_only_for_the_base_that_it_was_trained_on() -> None:
    spec = train_spec()
    spec.train.adapter.lora.init, spec.train.adapter.lora.rank = "loftq", 8
    spec.train.quantization = "nf4"
    assert written_rank(spec.train) == 16
    spec.train.intended_serving.precision = "nf4"
    assert written_rank(spec.train) == 8
    spec.train.merge = True
    assert written_rank(spec.train) == 16


def test_adamw_unless_an_adapter_would_not_fit() -> None:
    assert reasons(resolve(train_spec()))["train.optim.optimizer"][0] == "adamw"
    tight = ChosenBackend(manifest=knowing().manifest, device_kind="cuda", memory_bytes=400_000)
    value, why = reasons(resolve(train_spec(), backend=tight))["train.optim.optimizer"]
    assert value == "paged_adamw_8bit"
    assert "of the device's memory" in why
    full = resolve(train_spec(adapter=False), backend=tight)
    assert reasons(full)["train.optim.optimizer"][0] == "adamw"


def test_the_plan_counts_what_the_optimiser_keeps() -> None:
    def optimizer_bytes(name: str) -> float:
        spec = train_spec()
        spec.train.optim.optimizer = name
        estimate = resolve(spec, backend=knowing()).spec.estimate
        return estimate.optimizer_bytes / estimate.trainable_parameters

    assert [optimizer_bytes(name) for name in ("adamw", *OPTIMIZERS)] == [16, 10, 8]


def test_activations_are_computed_again_where_memory_is_short() -> None:
    assert reasons(resolve(train_spec(), backend=knowing()))["train.gradient_checkpointing"][0] == "true"
    assert "train.gradient_checkpointing" not in reasons(resolve(train_spec())), "who does not say so cannot"
    spec = train_spec()
    short = resolve(spec, backend=knowing()).spec.estimate.activation_bytes
    spec.train.gradient_checkpointing = False
    assert resolve(spec, backend=knowing()).spec.estimate.activation_bytes > short


def test_steps_of_warm_up_that_are_given_stay() -> None:
    spec = train_spec()
    spec.train.optim.warmup_steps = 7
    resolution = resolve(spec, backend=knowing())
    assert "train.optim.warmup_ratio" not in reasons(resolution)
    assert resolution.spec.spec.train.optim.warmup_steps == 7


def _spec_with(field: str, value: object) -> JobSpec:
    spec = train_spec()
    *parents, name = field.split(".")[1:]
    message: object = spec.train
    for parent in parents:
        message = getattr(message, parent)
    if field.endswith("modules_to_save"):
        getattr(message, name).append(value)
    else:
        setattr(message, name, value)
    return spec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.method.sft.packing", True),
        ("train.adapter.lora.init", "olora"),
        ("train.adapter.lora.lora_plus_ratio", 8.0),
        ("train.adapter.lora.modules_to_save", "lm_head"),
        ("train.gradient_checkpointing", True),
        ("train.neftune_alpha", 5.0),
        ("train.optim.optimizer", "lion"),
        ("train.optim.schedule", "wsd"),
        ("train.optim.min_lr_ratio", 0.1),
        ("train.optim.warmup_steps", 3),
        ("train.optim.beta1", 0.8),
        ("train.optim.beta2", 0.99),
        ("train.optim.epsilon", 1e-6),
    ],
)
def test_a_backend_refuses_a_word_that_it_does_not_declare(field: str, value: object) -> None:
    error = refusal(Reason.CAPABILITY_UNSUPPORTED, lambda: resolve(_spec_with(field, value), facts=deeper()))
    assert error.metadata["field"] == field
    assert error.message.startswith(f"{field}: the backend 'trl' does not train with")


def test_a_manifest_can_declare_only_what_needs_declaring() -> None:
    with pytest.raises(ValueError, match=r"train\.optim\.magic"):
        train_choices({"train.optim.magic": ()})
