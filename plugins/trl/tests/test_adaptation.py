"""Every way of adapting a model: it learns, trains what it says, and serves as it was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trl_lab as lab
from safetensors import safe_open
from safetensors.torch import load_file

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet_core.catalog.base import read_base
from tunefleet_core.errors import TunefleetError
from tunefleet_core.parity import check_numbers, judge_numbers, read_contract
from tunefleet_core.rendering import load_tokenizer
from tunefleet_core.resolve.estimate import estimate_train
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.rank import TrlRank
from tunefleet_trl.reference_numbers import measure

Run = Callable[[str], lab.MemoryContext]
QUICK = ("lora", "rslora", "qlora", "full")
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in lab.ADAPTATIONS]


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train once per adaptation, when first asked for."""
    finished: dict[str, lab.MemoryContext] = {}

    def one(adaptation: str) -> lab.MemoryContext:
        if adaptation not in finished:
            spec = lab.adapted_spec(adaptation, steps=24, dropout=0.0, rank=16)
            finished[adaptation] = lab.run_colours(base, tmp_path_factory.mktemp(adaptation), spec)
        return finished[adaptation]

    return one


def _measure(
    context: lab.MemoryContext, folder: Path, *, quantization: str = "", dtype: str = "float32"
) -> list[dict[int, float]]:
    """Return what an engine measures that serves this output, loaded from its folder as engines do."""
    facts = context.order.resolved_spec.base
    if (folder / "config.json").exists():
        facts = read_base(folder)
    model = load_base(facts, Hardware(kind="cpu", dtype=dtype), quantization=quantization)
    if (folder / "adapter_config.json").exists():
        model = load_adapter(model, str(folder))
    prompts = [record.prompt_token_ids for record in read_contract(folder).numbers]
    return [top.as_mapping() for top in measure(model, prompts)]


def _losses(context: lab.MemoryContext) -> list[float]:
    return [metrics.loss for metrics in context.told if metrics.HasField("loss")]


def _quantization(context: lab.MemoryContext) -> str:
    return context.order.resolved_spec.spec.train.quantization


@pytest.mark.parametrize("adaptation", CASES)
def test_it_learns_and_leaves_the_base_as_it_was(run: Run, base: Path, adaptation: str) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    losses = _losses(run(adaptation))
    assert losses[0] > 5
    assert sum(losses[-4:]) / 4 < 0.15 * losses[0]
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


@pytest.mark.parametrize("adaptation", CASES)
def test_what_is_trained_is_what_was_estimated(run: Run, adaptation: str) -> None:
    context = run(adaptation)
    spec = context.order.resolved_spec
    (file,) = context.output.glob("*.safetensors")
    trained = sum(tensor.numel() for tensor in load_file(file).values())
    spec.spec.train.dtype = "float32"
    estimate = estimate_train(spec.spec.train, spec.base, spec.target_modules, total_steps=1)
    assert estimate.trainable_parameters == trained


@pytest.mark.parametrize("adaptation", CASES)
def test_the_output_loaded_again_gives_the_tuned_numbers(run: Run, adaptation: str) -> None:
    context = run(adaptation)
    measured = _measure(context, context.output, quantization=_quantization(context))
    contract = read_contract(context.output)
    verdict = check_numbers(contract, measured, served_quantization=_quantization(context))
    assert verdict.distance_to_tuned < 1e-4
    assert verdict.distance_to_base > 0.5
    assert contract.precision.quantization == _quantization(context)


def test_under_rslora_the_record_holds_alpha_over_the_root_of_the_rank(run: Run) -> None:
    adapter = read_contract(run("rslora").output).adapter
    assert adapter is not None
    assert (adapter.rank, adapter.alpha, adapter.effective_scale, adapter.rslora) == (16, 4.0, 1.0, True)


def test_an_engine_that_serves_rslora_at_alpha_over_rank_is_refused(run: Run, tmp_path: Path) -> None:
    context = run("rslora")
    folder = tmp_path / "as-plain-lora"
    shutil.copytree(context.output, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config["use_rslora"] is True
    path.write_text(json.dumps({**config, "use_rslora": False}))  # what SGLang 0.5 makes of it
    with pytest.raises(TunefleetError, match="The engine's numbers") as caught:
        check_numbers(read_contract(folder), _measure(context, folder))
    assert float(caught.value.metadata["distance_to_tuned"]) > 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_nf4_adapter_on_the_whole_base_is_told_measured_and_accepted(run: Run, dtype: str) -> None:
    context = run("qlora")
    measured = _measure(context, context.output, dtype=dtype)
    verdict = judge_numbers(read_contract(context.output), measured, served_dtype=dtype)
    assert verdict.accepted, verdict.summary
    assert verdict.is_proof
    assert "trained on a base quantised to nf4, served on one not quantised" in verdict.summary
    assert any("nats away from there on the base in float32" in notice for notice in context.notices)


@pytest.mark.parametrize("factor", [0.0, 0.25])
def test_an_nf4_adapter_on_the_whole_base_at_another_scale_is_refused(
    run: Run, tmp_path: Path, factor: float
) -> None:
    context = run("qlora")
    folder = tmp_path / "weak"
    shutil.copytree(context.output, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "lora_alpha": factor * config["lora_alpha"]}))
    assert not judge_numbers(read_contract(folder), _measure(context, folder)).accepted


@pytest.mark.parametrize("adaptation", ["qlora", pytest.param("qdora", marks=pytest.mark.slow)])
def test_a_validation_changes_no_step_on_a_quantised_base(
    run: Run, base: Path, tmp_path: Path, adaptation: str
) -> None:
    """Repacked for inference, 4-bit weights would stop carrying gradients at the first validation."""
    validated = run(adaptation)
    order = lab.RunOrder()
    order.CopyFrom(validated.order)
    order.work_dir = str(tmp_path / "work")
    del order.resolved_spec.data[1:]
    context = lab.MemoryContext(order)
    TrlRank().run(context)
    assert any(metrics.HasField("validation_loss") for metrics in validated.told)
    assert not any(metrics.HasField("validation_loss") for metrics in context.told)
    assert _losses(context) == _losses(validated)


def test_full_fine_tuning_leaves_a_model_folder_as_its_base_is(run: Run, base: Path) -> None:
    output = run("full").output
    facts, before = read_base(output), read_base(base)
    assert facts.tokenizer_digest == before.tokenizer_digest
    assert facts.base_digest != before.base_digest
    assert [tensor.name for tensor in facts.tensors] == [tensor.name for tensor in before.tensors]
    assert {path.name for path in output.iterdir()} == {
        "chat_template.jinja", "config.json", "contract.json", "generation_config.json",
        "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert facts.chat_template == run("full").order.resolved_spec.chat_template.text
    assert load_tokenizer(facts).is_fast
    contract = read_contract(output)
    stops = json.loads((output / "generation_config.json").read_text())["eos_token_id"]
    assert stops == list(contract.template.stop_token_ids), "an engine must stop where training did"
    assert contract.adapter is None
    assert contract.base_digest == before.base_digest


def test_in_bfloat16_full_fine_tuning_steps_in_float32_and_writes_bfloat16(
    base: Path, tmp_path: Path
) -> None:
    spec = lab.adapted_spec("full", steps=4, learning_rate=1e-5)
    spec.train.dtype = "bfloat16"
    spec.train.checkpoint.every_steps = 2
    context = lab.run_colours(base, tmp_path, spec)
    with safe_open(context.checkpoint_folder(2) / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    lost = [bool((tensor == tensor.to(torch.bfloat16)).all()) for tensor in weights.values()]
    assert not all(lost), "a step of 1e-5 is smaller than bfloat16 can tell"
    assert {tensor.dtype for tensor in read_base(context.output).tensors} == {"BF16"}
    assert json.loads((context.output / "config.json").read_text())["dtype"] == "bfloat16"
    measured = _measure(context, context.output, dtype="bfloat16")
    assert judge_numbers(read_contract(context.output), measured).distance_to_tuned < 1e-3


def test_llama_in_full_is_told_to_be_a_model(tmp_path: Path, rank: TrlRank) -> None:
    base = lab.build_base(tmp_path / "base", model_type="llama")
    data = lab.colours(tmp_path / "train.jsonl")
    spec = lab.adapted_spec("full", steps=3)
    resolved = lab.resolved(base, model_type="llama", data=[("train", data)], spec=spec)
    context = lab.MemoryContext(lab.order(resolved, tmp_path / "work"))
    output = rank.run(context)
    assert (output.kind, output.step) == (ArtifactKind.ARTIFACT_KIND_MODEL, 3)
    assert read_base(context.output).model_type == "llama"
