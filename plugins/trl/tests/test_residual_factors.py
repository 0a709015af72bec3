"""LoftQ: an adapter begins with what quantising took, and is written for the base that it is meant for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trl_lab as lab
from peft import get_peft_model
from safetensors.torch import load_file

from tunefleet_core.catalog.base import read_base
from tunefleet_core.errors import TunefleetError
from tunefleet_core.parity import check_numbers, judge_numbers, read_contract
from tunefleet_trl.adaptation import adapter_config
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.reference_numbers import measure
from tunefleet_trl.residual_factors import begin_with_residual

CPU = Hardware(kind="cpu", dtype="float32")


def loftq_spec(*, form: str = "nf4", precision: str = "", **values: Any) -> lab.JobSpec:
    spec = lab.train_spec(**{"rank": 8, "alpha": 16, "dropout": 0.0, **values})
    spec.train.adapter.lora.init = "loftq"
    spec.train.quantization = form
    spec.train.intended_serving.precision = precision
    return spec


def adapted(base: Path, form: str) -> Any:
    spec = lab.resolved(base, data=[], spec=loftq_spec(form=form))
    return get_peft_model(load_base(spec.base, CPU, quantization=form), adapter_config(spec))


@pytest.mark.parametrize("form", ["nf4", "fp4"])
def test_it_begins_nearer_to_the_whole_base_than_any_other_adapter_of_its_rank_could(
    base: Path, form: str
) -> None:
    model = adapted(base, form)
    whole = load_file(base / "model.safetensors")
    before = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    lost = {name: _lost(name, layer, whole) for name, layer in before.items()}
    begin_with_residual(model, read_base(base))
    assert len(before) == 14
    for name, layer in before.items():
        singular = torch.linalg.svdvals(lost[name])
        best = float(singular[8:].square().sum().sqrt())  # Eckart-Young: no matrix of rank 8 comes nearer
        plain, begun = float(lost[name].norm()), float(_lost(name, layer, whole).norm())
        assert begun == pytest.approx(best, rel=1e-3)
        assert begun < 0.9 * plain, f"{name}: {begun} with LoftQ, {plain} without"
        a, b = (side["default"].weight.detach() for side in (layer.lora_A, layer.lora_B))
        assert float(a.norm()) == pytest.approx(float(b.norm()), rel=1e-3)


def _lost(name: str, layer: Any, whole: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what a layer with its adapter lacks of the whole weight, by multiplying out what it answers."""
    weight = whole[name.removeprefix("base_model.model.") + ".weight"]
    with torch.inference_mode():
        return weight - layer(torch.eye(weight.shape[1])).T


def test_a_base_whose_files_lack_a_weight_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    other = lab.build_base(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(TunefleetError, match=r"no weight of 'model\.layers\.1\..*' with the shape"):
        begin_with_residual(adapted(base, "nf4"), read_base(other))


@pytest.mark.parametrize("precision", ["", "nf4"])
def test_it_is_written_for_the_base_that_it_is_meant_for(base: Path, tmp_path: Path, precision: str) -> None:
    context = lab.run_colours(base, tmp_path, loftq_spec(precision=precision, steps=10))
    losses = [metrics.loss for metrics in context.told if metrics.HasField("loss")]
    assert sum(losses[-4:]) / 4 < 0.6 * losses[0]
    config = json.loads((context.output / "adapter_config.json").read_text())
    written = (8, 16) if precision else (16, 32)
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (*written, True)
    contract = read_contract(context.output)
    assert contract.adapter is not None
    assert (contract.adapter.rank, contract.adapter.alpha, contract.adapter.effective_scale) == (*written, 2)
    assert contract.precision.quantization == "nf4"
    prompts = [record.prompt_token_ids for record in contract.numbers]

    def answers(form: str) -> list[Any]:
        model = load_base(read_base(base), CPU, quantization=form)
        return [top.as_mapping() for top in measure(load_adapter(model, str(context.output)), prompts)]

    if precision:
        found = check_numbers(contract, answers("nf4"), served_quantization="nf4")
        assert found.distance_to_tuned < 1e-4
        assert not contract.unquantized  # nothing is promised of a whole base
    else:
        assert check_numbers(contract, answers("")).distance_to_tuned < 1e-4
        assert not judge_numbers(contract, answers("nf4"), served_quantization="nf4").accepted
