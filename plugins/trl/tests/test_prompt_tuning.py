"""Prompt tuning: learned embeddings before every row are trained, resumed, written and loaded as PEFT's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab
from safetensors.torch import load_file

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.parity import check_numbers, read_contract
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.rank import TrlRank
from tunefleet_trl.reference_numbers import measure

CPU = Hardware(kind="cpu", dtype="float32")
TOKENS = 8


def prompt_spec(*, init_text: str = "", **values: Any) -> lab.JobSpec:
    spec = lab.train_spec(**{"learning_rate": 0.3, "schedule": "constant", **values})
    prompt = spec.train.adapter.prompt_tuning
    prompt.num_virtual_tokens, prompt.init_text = TOKENS, init_text
    return spec


def resolved(base: Path, folder: Path, spec: lab.JobSpec) -> lab.RunOrder:
    folder.mkdir(exist_ok=True)
    rows = lab.colours(folder / "train.jsonl")
    data = [("train", rows), ("validation", rows), ("general", rows)]
    found = lab.resolved(base, data=data, spec=spec)
    found.ClearField("target_modules")
    return lab.order(found, folder / "work")


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> lab.MemoryContext:
    spec = prompt_spec(steps=40, batch_size=8)
    spec.train.data.general = "general.jsonl"
    spec.train.samples.prompts.append(lab.PAIRS[0][0])
    spec.train.samples.every_steps, spec.train.samples.max_new_tokens = 20, 4
    context = lab.MemoryContext(resolved(base, tmp_path_factory.mktemp("tuned"), spec))
    TrlRank().run(context)
    return context


def test_it_learns_and_the_weights_stay(tuned: lab.MemoryContext) -> None:
    losses = [metrics.loss for metrics in tuned.told if metrics.HasField("loss")]
    assert sum(losses[-4:]) / 4 < 0.7 * losses[0]
    weights = load_file(tuned.output / "adapter_model.safetensors")
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "prompt_embeddings": (TOKENS, 64)
    }
    assert tuned.samples, "prompts are answered while it trains"
    assert any("general/token_accuracy" in metrics.extra for metrics in tuned.told)
    assert any(metrics.HasField("validation_loss") for metrics in tuned.told)


def test_what_is_written_is_a_prompt_of_pefts_that_answers_as_it_was_measured(
    base: Path, tuned: lab.MemoryContext
) -> None:
    config = json.loads((tuned.output / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PROMPT_TUNING", TOKENS)
    assert (config["prompt_tuning_init"], config["tokenizer_name_or_path"]) == ("RANDOM", None)
    contract = read_contract(tuned.output)
    assert contract.adapter is not None
    assert (contract.adapter.virtual_tokens, contract.adapter.rank) == (TOKENS, 0)
    whole = load_base(read_base(base), CPU)
    prompts = [record.prompt_token_ids for record in contract.numbers]
    assert measure(whole, prompts) == [record.base for record in contract.numbers]
    served = load_adapter(whole, str(tuned.output))
    verdict = check_numbers(contract, [top.as_mapping() for top in measure(served, prompts)])
    assert verdict.distance_to_tuned < 1e-4 < verdict.distance_to_base


def test_it_answers_whatever_the_company_of_a_prompt(
    base: Path, tuned: lab.MemoryContext, tmp_path: Path
) -> None:
    words = ("red", "a somewhat longer question", "white")
    rows = lab.write_rows(tmp_path / "rows.jsonl", [lab.chat(word, "rot") for word in words])

    def answers(batch_size: int) -> list[str]:
        spec = lab.evaluate_spec(batch_size=batch_size, max_new_tokens=12)
        found = lab.resolved(base, data=[("evaluate", rows)], spec=spec)
        work = tmp_path / f"by{batch_size}"
        context = lab.MemoryContext(lab.order(found, work, adapter_dir=str(tuned.output)))
        TrlRank().run(context)
        lines = (context.output / "answers.jsonl").read_text().splitlines()
        return [json.loads(line)["given"] for line in lines]

    assert answers(3) == answers(1)


@pytest.mark.parametrize("init_text", ["", "Say it in German."])
def test_it_resumes_in_the_same_bytes(base: Path, tmp_path: Path, init_text: str) -> None:
    def context(name: str, **fields: Any) -> lab.MemoryContext:
        spec = prompt_spec(init_text=init_text, steps=4)
        return lab.MemoryContext(resolved(base, tmp_path / name, spec), **fields)

    def stop_at_two(context: lab.MemoryContext) -> int:
        return StopMode.STOP_MODE_SAVE if context.step >= 1 else StopMode.STOP_MODE_UNSPECIFIED

    whole = context("whole")
    TrlRank().run(whole)
    stopped = context("stopped", stop_when=stop_at_two)
    with pytest.raises(RunStopped):
        TrlRank().run(stopped)
    resumed = context("resumed")
    resumed.order.resume_from, resumed.order.resume_step = str(stopped.checkpoint_folder(2)), 2
    TrlRank().run(resumed)
    first, second = (
        (folder.output / "adapter_model.safetensors").read_bytes() for folder in (whole, resumed)
    )
    assert first == second


def test_it_trains_on_a_quantised_base(base: Path, tmp_path: Path) -> None:
    spec = prompt_spec(steps=6)
    spec.train.quantization = "nf4"
    context = lab.MemoryContext(resolved(base, tmp_path, spec))
    TrlRank().run(context)
    contract = read_contract(context.output)
    assert contract.precision.quantization == "nf4"
    assert contract.unquantized
