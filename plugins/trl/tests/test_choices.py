"""Ways of starting an adapter and of moving its weights: each trains, and resumes in the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trl_lab as lab

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.spec_pb2 import Optim
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.parity import check_numbers, read_contract
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.optimising import OPTIMIZERS, optimizer_arguments
from tunefleet_trl.rank import TrlRank
from tunefleet_trl.reference_numbers import measure

WEIGHTS = "adapter_model.safetensors"


def _context(base: Path, folder: Path, spec: lab.JobSpec, **fields: Any) -> lab.MemoryContext:
    folder.mkdir()
    data = lab.colours(folder / "train.jsonl")
    resolved = lab.resolved(base, data=[("train", data)], spec=spec)
    return lab.MemoryContext(lab.order(resolved, folder / "work"), **fields)


def _losses(context: lab.MemoryContext) -> list[float]:
    return [metrics.loss for metrics in context.told if metrics.HasField("loss")]


def _stop_at_two(context: lab.MemoryContext) -> int:
    return StopMode.STOP_MODE_SAVE if context.step >= 1 else StopMode.STOP_MODE_UNSPECIFIED


QUICK = ("adafactor", "adamw_8bit", "muon", "pissa", "loftq", "lora_plus")
CHOICES = [
    *QUICK,
    *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS if name not in ("adamw", *QUICK)),
]


@pytest.mark.parametrize("choice", CHOICES)
def test_it_learns_and_resumes_in_the_same_bytes(base: Path, tmp_path: Path, choice: str) -> None:
    def spec() -> lab.JobSpec:
        rate = 3e-4 if choice.startswith("lion") else 1e-2
        # Every step sees every row, so that losses compare.
        sizes = {"batch_size": 8, "micro_batch_size": 4}
        wanted = lab.train_spec(steps=4, dropout=0.1, learning_rate=rate, schedule="constant", **sizes)
        wanted.train.preflight = False
        lora = wanted.train.adapter.lora
        if choice in ("pissa", "loftq"):
            lora.init = choice
            wanted.train.quantization = "nf4" if choice == "loftq" else ""
        elif choice == "lora_plus":
            lora.lora_plus_ratio = 4
        else:
            wanted.train.optim.optimizer = choice
        return wanted

    whole = _context(base, tmp_path / "whole", spec())
    TrlRank().run(whole)
    assert _losses(whole)[-1] < _losses(whole)[0]
    stopped = _context(base, tmp_path / "stopped", spec(), stop_when=_stop_at_two)
    with pytest.raises(RunStopped):
        TrlRank().run(stopped)
    resumed = _context(base, tmp_path / "resumed", spec())
    resumed.order.resume_from, resumed.order.resume_step = str(stopped.checkpoint_folder(2)), 2
    TrlRank().run(resumed)
    assert _losses(stopped) + _losses(resumed) == _losses(whole)
    assert (resumed.output / WEIGHTS).read_bytes() == (whole.output / WEIGHTS).read_bytes()


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_what_was_taken_out_of_the_base_is_given_back_in_the_adapter(
    base: Path, tmp_path: Path, init: str
) -> None:
    spec = lab.train_spec(steps=6, dropout=0.0, learning_rate=2e-3, rank=4, alpha=4)
    spec.train.adapter.lora.init = init
    context = _context(base, tmp_path / "run", spec)
    TrlRank().run(context)
    config = json.loads((context.output / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 8, True)
    contract = read_contract(context.output)
    assert contract.adapter is not None
    assert (contract.adapter.rank, contract.adapter.alpha, contract.adapter.effective_scale) == (8, 8, 1)
    whole = load_base(read_base(base), Hardware(kind="cpu", dtype="float32"))
    prompts = [record.prompt_token_ids for record in contract.numbers]
    assert measure(whole, prompts) == [record.base for record in contract.numbers], "of the base as it was"
    served = load_adapter(whole, str(context.output))
    verdict = check_numbers(contract, [top.as_mapping() for top in measure(served, prompts)])
    assert verdict.distance_to_tuned < 1e-4 < verdict.distance_to_base


@pytest.mark.slow
def test_modules_that_are_trained_whole_are_merged_too(base: Path, tmp_path: Path) -> None:
    spec = lab.train_spec(steps=4, dropout=0.0)
    spec.train.adapter.lora.modules_to_save.append("lm_head")
    spec.train.merge = True
    context = _context(base, tmp_path / "run", spec)
    TrlRank().run(context)  # a merge that answers otherwise than the tuned model is refused
    merged = load_base(read_base(context.output), Hardware(kind="cpu", dtype="float32"))
    began = load_base(read_base(base), Hardware(kind="cpu", dtype="float32"))
    assert not torch.equal(merged.lm_head.weight, began.lm_head.weight)
    assert torch.equal(merged.model.embed_tokens.weight, began.model.embed_tokens.weight)


def _rates(**values: Any) -> list[float]:
    """Return the rate of every step, as the library makes it from our arguments."""
    from transformers.optimization import get_scheduler

    steps = 20
    arguments = optimizer_arguments(Optim(learning_rate=1.0, **values), steps)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(
        arguments["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=arguments["warmup_steps"],
        num_training_steps=steps,
        scheduler_specific_kwargs=arguments["lr_scheduler_kwargs"],
    )
    rates: list[float] = []
    for _ in range(steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("values", "middle", "last"),
    [
        ({"schedule": "cosine"}, 0.5, 0.0),
        ({"schedule": "cosine", "min_lr_ratio": 0.1}, 0.55, 0.1),
        ({"schedule": "linear"}, 0.5, 0.0),
        ({"schedule": "linear", "min_lr_ratio": 0.1}, 0.55, 0.1),
        ({"schedule": "constant"}, 1.0, 1.0),
        ({"schedule": "wsd", "decay_ratio": 0.25}, 1.0, 0.0),
        ({"schedule": "wsd", "min_lr_ratio": 0.1}, 1.0, 0.1),
    ],
)
def test_the_rate_falls_as_far_as_was_asked(values: dict[str, Any], middle: float, last: float) -> None:
    rates = _rates(**values)
    assert rates[10] == pytest.approx(middle)
    assert rates[20] == pytest.approx(last, abs=1e-9)


def test_the_rate_rises_for_as_many_steps_as_was_asked() -> None:
    assert _rates(schedule="constant", warmup_steps=4)[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert _rates(schedule="wsd", warmup_ratio=0.2)[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
