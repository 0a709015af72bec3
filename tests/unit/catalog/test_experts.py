"""Routed experts: which parameters of the loaded model they are, whatever the files hold."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from tunefleet.model.v1.base_pb2 import BaseFacts, TensorFact
from tunefleet_core.catalog import Family, expert_adapter_parameters, select_target_parameters
from tunefleet_core.errors import Reason, TunefleetError

FAMILY = Family(
    name="moe",
    model_types=("moe",),
    chat_template="",
    template_origin="the test",
    stop_tokens=(),
    target_suffixes=("q_proj",),
    expert_parameters=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
)
SHAPE = {"num_hidden_layers": 2, "hidden_size": 8, "num_experts": 4, "moe_intermediate_size": 16}


def facts(names: Iterable[str], *, model_type: str = "moe", **config: object) -> BaseFacts:
    return BaseFacts(
        model="org/tiny",
        model_type=model_type,
        config_json=json.dumps({**SHAPE, **config}),
        tensors=[TensorFact(name=name, shape=[8, 8], dtype="BF16") for name in names],
    )


def both(*layers: int) -> list[str]:
    return [f"model.layers.{n}.mlp.experts.{p}_proj" for n in layers for p in ("down", "gate_up")]


@pytest.mark.parametrize(
    "name",
    [
        "mlp.experts.gate_up_proj",
        "mlp.experts.3.gate_proj.weight",
        "block_sparse_moe.experts.0.w1.weight",
        "mlp.experts.gate_up_proj_blocks",
    ],
)
def test_every_layout_of_the_files_gives_the_parameters_of_the_loaded_model(name: str) -> None:
    found = facts([f"model.layers.{layer}.{name}" for layer in (1, 0)])
    assert select_target_parameters(found, FAMILY) == both(0, 1)


def test_a_dense_layer_has_no_experts_and_a_layer_beyond_the_last_is_not_loaded() -> None:
    names = [
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.shared_experts.gate_proj.weight",
        "model.layers.1.mlp.experts.0.gate_proj.weight",
        "model.layers.2.mlp.experts.0.gate_proj.weight",  # predicts a second token
        "mtp.layers.0.mlp.experts.0.gate_proj.weight",
    ]
    assert select_target_parameters(facts(names), FAMILY) == both(1)


def test_a_model_whose_files_name_layers_otherwise_gets_the_loaded_names() -> None:
    names = ["model.language_model.layers.0.mlp.experts.gate_up_proj"]
    found = facts(names, model_type="qwen3_5_moe", text_config=SHAPE)
    assert select_target_parameters(found, FAMILY) == both(0)


def test_a_base_without_experts_is_refused_by_name() -> None:
    with pytest.raises(TunefleetError) as caught:
        select_target_parameters(facts(["model.layers.0.mlp.gate_proj.weight"]), FAMILY)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.message == (
        "train.adapter.lora.experts: 'org/tiny' (family 'moe') has no routed experts"
    )


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_experts": None, "num_local_experts": 4},
        {"num_experts": None, "n_routed_experts": 4, "intermediate_size": 99},
        {"moe_intermediate_size": None, "intermediate_size": 16},
        {"text_config": SHAPE, "hidden_size": 1},
    ],
)
def test_each_expert_has_factors_of_its_own(config: dict[str, object]) -> None:
    gate_up, down = 4 * 2 * (8 + 32), 4 * 2 * (8 + 16)
    assert expert_adapter_parameters(facts([], **config), both(0), rank=2) == gate_up + down
