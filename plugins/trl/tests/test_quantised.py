"""Bases quantised by bitsandbytes, while they are loaded or before: really so, and really trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl_lab as lab
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tunefleet_core.catalog import FormatRegistry
from tunefleet_core.catalog.base import read_base
from tunefleet_core.parity import check_numbers, read_contract
from tunefleet_formats.plugin import FORMATS as KNOWN
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.plugin import tunefleet_backends
from tunefleet_trl.quantising import FORMATS, quantising_options
from tunefleet_trl.reference_numbers import measure

CPU = Hardware(kind="cpu", dtype="float32")
REGISTRY = FormatRegistry(KNOWN)


def linear_layers(model: Any) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.named_modules()
        if name.endswith("_proj") and isinstance(module, torch.nn.Linear)
    }


def stored(base: Path, folder: Path, form: str) -> Path:
    """Write a base as somebody publishes it who quantised it before."""
    model = AutoModelForCausalLM.from_pretrained(
        base, device_map={"": "cpu"}, **quantising_options(form, dtype="float32")
    )
    model.save_pretrained(folder)
    for path in base.glob("token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def published(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {form: stored(base, tmp_path_factory.mktemp(form) / "base", form) for form in FORMATS}


def assert_quantised(model: Any, form: str) -> None:
    layers = linear_layers(model)
    assert len(layers) == 14
    for module in layers.values():
        if form == "int8":
            assert type(module) is Linear8bitLt
            assert module.weight.dtype is torch.int8
        else:
            assert type(module) is Linear4bit
            assert module.weight.quant_state.quant_type == form
            assert module.weight.quant_state.nested
            assert module.support_avx512bf16_for_cpu is False


def test_the_manifest_names_what_it_trains_on() -> None:
    (manifest,) = tunefleet_backends()
    assert {*FORMATS, "mxfp4"} <= {*manifest.trained_formats}


@pytest.mark.parametrize("form", FORMATS)
def test_a_base_is_quantised_while_it_is_loaded(base: Path, form: str) -> None:
    assert_quantised(load_base(read_base(base), CPU, quantization=form), form)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 3)])
def test_an_eight_bit_layer_takes_inputs_of_any_shape(base: Path, shape: tuple[int, ...]) -> None:
    layer = load_base(read_base(base), CPU, quantization="int8").model.layers[0].self_attn.q_proj
    rows = torch.randn(6 if len(shape) > 1 else 5, 64, requires_grad=True)
    shaped = layer(rows.reshape(*shape, 64))
    assert torch.equal(shaped.reshape(-1, layer.out_features), layer(rows))
    shaped.sum().backward()
    assert rows.grad is not None


@pytest.mark.parametrize("form", FORMATS)
def test_a_base_that_is_stored_quantised_is_loaded_as_it_is(published: dict[str, Path], form: str) -> None:
    facts = read_base(published[form], formats=REGISTRY)
    assert facts.quantization.format == form
    for again in ("", form):
        assert_quantised(load_base(facts, CPU, quantization=again), form)


@pytest.mark.parametrize("form", FORMATS)
def test_a_base_that_is_stored_quantised_has_the_facts_of_the_whole_one(
    base: Path, published: dict[str, Path], form: str
) -> None:
    whole, facts = read_base(base), read_base(published[form], formats=REGISTRY)
    assert facts.parameter_count == whole.parameter_count
    assert [(tensor.name, tensor.shape) for tensor in facts.tensors] == [
        (tensor.name, tensor.shape) for tensor in whole.tensors
    ]
    assert facts.weights_bytes < whole.weights_bytes


@pytest.mark.parametrize("form", ["fp4", "int8"])
def test_it_learns_on_quantised_weights_and_serves_as_it_was_trained(
    base: Path, tmp_path: Path, form: str
) -> None:
    spec = lab.adapted_spec("lora", steps=10, dropout=0.0, rank=16)
    spec.train.quantization = form
    context = lab.run_colours(base, tmp_path, spec)
    adapter = load_file(context.output / "adapter_model.safetensors")
    moved = [name for name, tensor in adapter.items() if "lora_B" in name and tensor.abs().max() > 0]
    assert len(moved) == 14  # every layer had a gradient through quantised weights
    losses = [metrics.loss for metrics in context.told if metrics.HasField("loss")]
    assert sum(losses[-4:]) / 4 < 0.6 * losses[0]
    contract = read_contract(context.output)
    assert contract.precision.quantization == form
    model = load_base(read_base(base), CPU, quantization=form)
    prompts = [record.prompt_token_ids for record in contract.numbers]
    measured = [top.as_mapping() for top in measure(load_adapter(model, str(context.output)), prompts)]
    assert check_numbers(contract, measured, served_quantization=form).distance_to_tuned < 1e-4


@pytest.mark.parametrize("form", FORMATS)
def test_an_adapter_trains_on_a_base_that_is_stored_quantised(
    published: dict[str, Path], tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "read_base", lambda folder: read_base(folder, formats=REGISTRY))
    before = {path.name: path.read_bytes() for path in published[form].iterdir()}
    spec = lab.adapted_spec("lora", steps=2, dropout=0.0, rank=16)
    context = lab.run_colours(published[form], tmp_path, spec)
    adapter = load_file(context.output / "adapter_model.safetensors")
    assert len([name for name in adapter if "lora_B" in name and adapter[name].abs().max() > 0]) == 14
    assert {path.name: path.read_bytes() for path in published[form].iterdir()} == before
