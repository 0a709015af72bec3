"""Adapters on routed experts, and the routers beside them: learned, resumed, merged, written, reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import process_lab
import pytest
import torch
import trl_lab as lab
from safetensors.torch import load_file

from tunefleet_core.catalog.base import read_base
from tunefleet_core.parity import check_numbers, read_contract
from tunefleet_core.rendering import Renderer, load_tokenizer, training_rows
from tunefleet_core.resolve.estimate import estimate_train
from tunefleet_trl import training
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.merging import merge_adapter
from tunefleet_trl.reference_numbers import measure
from tunefleet_trl.routing import ExpertLoad

TYPES = ("qwen3_moe", "mixtral", "gpt_oss")
CPU = Hardware(kind="cpu", dtype="float32")
Run = Callable[[str], lab.MemoryContext]


def _spec(*, steps: int = 24) -> lab.JobSpec:
    spec = lab.train_spec(rank=8, alpha=8, steps=steps, dropout=0.0, learning_rate=2e-2)
    spec.train.adapter.lora.experts = True
    spec.train.max_length = 512  # the harmony form begins with a long system turn, here a token a byte
    return spec


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train experts of a type once, when first asked for."""
    finished: dict[str, lab.MemoryContext] = {}

    def one(model_type: str) -> lab.MemoryContext:
        if model_type not in finished:
            folder = tmp_path_factory.mktemp(model_type)
            base = lab.build_base(folder / "base", model_type=model_type)
            finished[model_type] = lab.run_colours(base, folder, _spec(), model_type=model_type)
        return finished[model_type]

    return one


def _names(context: lab.MemoryContext) -> list[str]:
    return list(context.order.resolved_spec.target_parameters)


@pytest.mark.parametrize(
    "model_type",
    [name if name == "qwen3_moe" else pytest.param(name, marks=pytest.mark.slow) for name in TYPES],
)
def test_experts_learn_and_the_adapter_names_them(run: Run, model_type: str) -> None:
    context = run(model_type)
    losses = [metrics.loss for metrics in context.told if metrics.HasField("loss")]
    assert sum(losses[-4:]) / 4 < 0.2 * losses[0]
    config = json.loads((context.output / "adapter_config.json").read_text())
    assert config["target_parameters"] == _names(context)
    assert len(_names(context)) == 4, "two layers, two parameters each"
    adapter = read_contract(context.output).adapter
    assert adapter is not None
    assert list(adapter.target_parameters) == _names(context)
    tensors = load_file(context.output / "adapter_model.safetensors")
    moved = {name for name, tensor in tensors.items() if ".experts." in name and tensor.abs().max() > 0}
    assert len(moved) == 2 * len(_names(context)), "every factor of every expert parameter"


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_trained_is_what_was_estimated(run: Run, model_type: str) -> None:
    context = run(model_type)
    spec = context.order.resolved_spec
    trained = sum(
        tensor.numel() for tensor in load_file(context.output / "adapter_model.safetensors").values()
    )
    spec.spec.train.dtype = "float32"
    estimate = estimate_train(
        spec.spec.train, spec.base, spec.target_modules, total_steps=1, target_parameters=_names(context)
    )
    assert estimate.trainable_parameters == trained


@pytest.mark.parametrize("model_type", TYPES)
def test_the_adapter_loaded_again_gives_the_tuned_numbers(run: Run, model_type: str) -> None:
    context = run(model_type)
    contract = read_contract(context.output)
    model = load_adapter(load_base(context.order.resolved_spec.base, CPU), str(context.output))
    measured = measure(model, [record.prompt_token_ids for record in contract.numbers])
    verdict = check_numbers(contract, [top.as_mapping() for top in measured])
    assert verdict.distance_to_tuned < 1e-4
    assert verdict.distance_to_base > 0.3


@pytest.mark.parametrize("model_type", TYPES)
def test_merged_experts_answer_as_the_adapter_did(run: Run, model_type: str, tmp_path: Path) -> None:
    context = run(model_type)
    base = context.order.resolved_spec.base
    folder = tmp_path / "whole"
    folder.mkdir()
    merged = merge_adapter(base, context.output, folder)
    assert merged.verdict.distance_to_tuned < 1e-4
    facts = read_base(folder)
    assert {tensor.name for tensor in facts.tensors} == {tensor.name for tensor in base.tensors}
    changed, before = _tensors(folder), _tensors(Path(base.path))
    moved = {name for name in changed if not torch.equal(changed[name], before[name])}
    assert any(".experts." in name for name in moved)
    assert not any("router" in name or name.endswith("gate.weight") for name in moved)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("model_type", ["qwen3_moe", pytest.param("gpt_oss", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, model_type: str) -> None:
    base = lab.build_base(tmp_path / "base", model_type=model_type)
    spec = _spec(steps=8)
    spec.train.checkpoint.every_steps = 3
    whole = lab.run_colours(base, tmp_path, spec, model_type=model_type)
    order = lab.RunOrder()
    order.CopyFrom(whole.order)
    order.work_dir = str(tmp_path / "killed")
    step = process_lab.killed_after(order, 3)
    process_lab.run_in_new_process(process_lab.resumed(order, tmp_path / "resumed", step))
    for path in whole.output.iterdir():
        assert (tmp_path / "resumed" / "output" / path.name).read_bytes() == path.read_bytes(), path.name


def _trainer(
    tmp_path: Path, *, adapter: bool, model_type: str = "qwen3_moe", **config: Any
) -> tuple[Any, Any]:
    """Return a trainer that has not begun, and its first micro batch."""
    base = lab.build_base(tmp_path / "base", model_type=model_type, **config)
    data = lab.colours(tmp_path / "train.jsonl")
    spec = _spec(steps=2)
    if not adapter:
        spec.train.ClearField("adapter")
    resolved = lab.resolved(base, model_type=model_type, data=[("train", data)], spec=spec)
    context = lab.MemoryContext(lab.order(resolved, tmp_path / "work"))
    renderer = Renderer(load_tokenizer(resolved.base), resolved.chat_template, loss_on="assistant")
    rows = training_rows(context, renderer)
    model = load_base(resolved.base, CPU)
    trainer = training._trainer(context, renderer, rows, CPU, model=model)
    trainer.current_gradient_accumulation_steps = 1
    return trainer, trainer.data_collator([trainer.train_dataset[row] for row in range(2)])


def _router_gradient(trainer: Any, batch: Any) -> torch.Tensor:
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    (router,) = [
        p for name, p in trainer.model.named_parameters() if name.endswith("layers.0.mlp.gate.weight")
    ]
    return router.grad.clone()


def test_the_balance_of_the_routers_is_in_their_gradient_with_the_factor_of_the_base(tmp_path: Path) -> None:
    trainer, batch = _trainer(tmp_path, adapter=False, router_aux_loss_coef=0.5)
    assert trainer.aux_loss_enabled
    assert trainer.router_aux_loss_coef == 0.5
    whole = _router_gradient(trainer, batch)
    trainer.router_aux_loss_coef = 0.25
    half = _router_gradient(trainer, batch)
    trainer.router_aux_loss_coef = 0.0
    none = _router_gradient(trainer, batch)
    assert (whole - none).abs().max() > 1e-4
    torch.testing.assert_close(whole - none, 2 * (half - none), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("model_type", TYPES)
def test_under_an_adapter_the_balance_is_reported_with_the_load(run: Run, model_type: str) -> None:
    steps = [metrics for metrics in run(model_type).told if metrics.HasField("loss")]
    assert all(metrics.extra["aux_loss"] > 0.5 for metrics in steps)
    assert all(2 / 4 <= metrics.extra["expert_load"] <= 1 for metrics in steps), "two of four experts a token"
    assert len({round(metrics.extra["expert_load"], 6) for metrics in steps}) > 1


def test_where_the_base_turns_the_balance_off_the_loss_is_the_library_s_own(tmp_path: Path) -> None:
    trainer, batch = _trainer(tmp_path, adapter=True, router_aux_loss_coef=0.0)
    assert not trainer.aux_loss_enabled
    loss = trainer.compute_loss(trainer.model, dict(batch))
    plain = trainer.model(**{**batch, "use_cache": False}).loss
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)


class _Router(torch.nn.Module):
    """Sends each token where its first number says, and to the expert after that."""

    top_k, num_experts = 2, 4

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first = hidden[:, 0].long()
        chosen = torch.stack([first, (first + 1) % 4], dim=1)
        return hidden, hidden, chosen


def test_the_load_is_the_share_of_tokens_of_the_busiest_expert_padding_left_out() -> None:
    router = _Router()
    load = ExpertLoad(torch.nn.Sequential(router))
    assert load.take() is None
    tokens = torch.tensor([[0.0], [0.0], [2.0], [3.0], [2.0], [2.0], [2.0], [2.0]])
    load.expect(torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    router(tokens)
    assert load.take() == pytest.approx(3 / 4), "expert 0 has tokens 0, 1 and 3"
    load.expect(None)
    router(tokens)
    assert load.take() == pytest.approx(6 / 8), "experts 2 and 3 share the padding too"
    router.eval()
    router(tokens)
    assert load.take() is None, "a validation is no training"


def test_a_dense_model_has_neither(trained: lab.MemoryContext) -> None:
    extra = {name for metrics in trained.told for name in metrics.extra}
    assert not extra & {"aux_loss", "expert_load"}
