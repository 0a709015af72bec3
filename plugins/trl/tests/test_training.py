"""A training run on a tiny random model: it learns, reports and leaves what engines read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import trl_lab as lab

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_trl.rank import TrlRank


def test_the_loss_goes_down_and_the_small_task_is_learned_exactly(
    base: Path, trained: lab.MemoryContext, tmp_path: Path, rank: TrlRank
) -> None:
    losses = [metrics.loss for metrics in trained.told if metrics.HasField("loss")]
    assert losses[0] > 5
    assert losses[-1] < 0.1
    data = lab.colours(tmp_path / "test.jsonl", copies=1)
    spec = lab.resolved(base, data=[("evaluate", data)], spec=lab.evaluate_spec(metrics=["exact_match"]))
    untuned = rank.run(lab.MemoryContext(lab.order(spec, tmp_path / "untuned")))
    tuned = rank.run(lab.MemoryContext(lab.order(spec, tmp_path / "tuned", adapter_dir=str(trained.output))))
    assert [score.value for score in untuned.scores] == [0.0]
    assert [score.value for score in tuned.scores] == [1.0]


def test_every_step_is_reported_with_its_numbers(trained: lab.MemoryContext) -> None:
    steps = [metrics for metrics in trained.told if metrics.HasField("loss")]
    assert [metrics.step for metrics in steps] == list(range(1, 61))
    for metrics in steps:
        assert metrics.total_steps == 60
        assert metrics.tokens_per_second > 0
        assert metrics.peak_memory_bytes > 0
        assert metrics.grad_norm > 0
    rates = [metrics.learning_rate for metrics in steps]
    peak = rates.index(max(rates))
    assert peak == 6, "a tenth of the steps is warm-up"
    assert max(rates) == pytest.approx(1e-2)
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4, "cosine ends near zero"
    validations = [metrics for metrics in trained.told if metrics.HasField("validation_loss")]
    assert [metrics.step for metrics in validations] == list(range(6, 61, 6))
    assert validations[-1].validation_loss < validations[0].validation_loss
    assert steps[-1].tokens > steps[0].tokens > 0


def test_phases_come_in_order(trained: lab.MemoryContext) -> None:
    assert trained.phases[:3] == [
        RunPhase.RUN_PHASE_LOADING,
        RunPhase.RUN_PHASE_PREFLIGHT,
        RunPhase.RUN_PHASE_WORKING,
    ]


def test_the_output_is_an_adapter_that_any_user_may_read(trained: lab.MemoryContext, base: Path) -> None:
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in trained.output.iterdir()}
    assert files == dict.fromkeys(
        ["adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "contract.json"], 0o644
    )
    config = json.loads((trained.output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    assert config["target_modules"] == list(trained.order.resolved_spec.target_modules)
    template = trained.order.resolved_spec.chat_template
    assert (trained.output / "chat_template.jinja").read_text() == template.text


def test_the_contract_records_what_was_run(trained: lab.MemoryContext) -> None:
    spec = trained.order.resolved_spec
    contract = read_contract(trained.output)
    assert contract.base_digest == spec.base.base_digest
    assert contract.tokenizer_digest == spec.base.tokenizer_digest
    assert contract.template.text == spec.chat_template.text
    assert contract.template.stop_token_ids == tuple(spec.chat_template.stop_token_ids)
    assert (contract.adapter.rank, contract.adapter.alpha, contract.adapter.effective_scale) == (8, 16, 2)
    assert contract.precision.dtype == "float32"
    assert len(contract.tokens) == 8
    assert 8 <= len(contract.numbers) <= 16 or len(contract.numbers) == 4, "four rows give four prefixes"
    assert all(len(record.tuned.token_ids) == 20 for record in contract.numbers)


def test_only_adapter_weights_change(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    before = {path.name: path.read_bytes() for path in base.iterdir()}
    context = lab.run_colours(base, tmp_path, lab.train_spec(steps=2))
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    weights = load_file(context.output / "adapter_model.safetensors")
    modules = context.order.resolved_spec.target_modules
    assert len(weights) == 2 * len(modules)
    assert all(".lora_A." in name or ".lora_B." in name for name in weights)
    assert all(weights[name].abs().max() > 0 for name in weights if ".lora_B." in name)


def test_accumulation_makes_the_same_steps_as_one_large_batch(base: Path, tmp_path: Path) -> None:
    losses = []
    for micro in (4, 1):
        (tmp_path / str(micro)).mkdir()
        spec = lab.train_spec(steps=4, dropout=0.0, micro_batch_size=micro)
        context = lab.run_colours(base, tmp_path / str(micro), spec)
        losses.append([metrics.loss for metrics in context.told if metrics.HasField("loss")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_gradient_checkpointing_is_an_option_that_changes_no_number(base: Path, tmp_path: Path) -> None:
    losses = []
    for wanted in (False, True):
        (tmp_path / str(wanted)).mkdir()
        spec = lab.train_spec(steps=3, dropout=0.0)
        spec.train.gradient_checkpointing = wanted
        context = lab.run_colours(base, tmp_path / str(wanted), spec)
        losses.append([metrics.loss for metrics in context.told if metrics.HasField("loss")])
    assert losses[0] == losses[1]


def test_noise_on_the_embeddings_moves_the_training_and_not_what_is_written(
    base: Path, tmp_path: Path
) -> None:
    spec = lab.train_spec(steps=3, dropout=0.0)
    spec.train.neftune_alpha = 5.0
    quiet, noisy = lab.train_spec(steps=3, dropout=0.0), spec
    losses = []
    for name, wanted in (("quiet", quiet), ("noisy", noisy), ("again", noisy)):
        (tmp_path / name).mkdir()
        context = lab.run_colours(base, tmp_path / name, wanted)
        losses.append([metrics.loss for metrics in context.told if metrics.HasField("loss")])
        assert sorted(path.name for path in context.output.iterdir())[0] == "adapter_config.json"
    assert losses[0] != losses[1] == losses[2]


def test_the_steps_follow_from_the_epochs(base: Path, tmp_path: Path) -> None:
    spec = lab.train_spec(steps=0, epochs=1.5, batch_size=4, micro_batch_size=2)
    context = lab.run_colours(base, tmp_path, spec)
    assert context.told[-1].step == context.told[-1].total_steps == 6, "16 rows: 4 steps an epoch"


def test_a_llama_base_is_trained_too(tmp_path: Path, rank: TrlRank) -> None:
    base = lab.build_base(tmp_path / "base", model_type="llama")
    data = lab.colours(tmp_path / "train.jsonl")
    spec = lab.resolved(base, model_type="llama", data=[("train", data)], spec=lab.train_spec(steps=3))
    context = lab.MemoryContext(lab.order(spec, tmp_path / "work"))
    output = rank.run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_ADAPTER
    assert output.step == 3


def test_a_diverging_run_ends_with_a_reason(base: Path, tmp_path: Path) -> None:
    spec = lab.train_spec(steps=20, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(TunefleetError, match="the training diverged") as caught:
        lab.run_colours(base, tmp_path, spec)
    assert caught.value.reason is Reason.TRAINING_DIVERGED


def test_what_is_not_done_is_refused_by_name(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    spec = lab.train_spec()
    spec.train.quantization = "gptq"
    data = lab.colours(tmp_path / "train.jsonl")
    context = lab.MemoryContext(
        lab.order(lab.resolved(base, data=[("train", data)], spec=spec), tmp_path / "work")
    )
    with pytest.raises(TunefleetError, match="QUANTIZED_TRAINING") as caught:
        rank.run(context)
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert not context.output.exists()


def test_a_base_without_safetensors_is_refused(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    data = lab.colours(tmp_path / "train.jsonl")
    spec = lab.resolved(base, data=[("train", data)], spec=lab.train_spec())
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    spec.base.path = str(bare)
    with pytest.raises(TunefleetError, match="no safetensors weights") as caught:
        rank.run(lab.MemoryContext(lab.order(spec, tmp_path / "work")))
    assert caught.value.reason is Reason.BASE_INVALID


def test_nothing_reaches_standard_output(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lab.run_colours(base, tmp_path, lab.train_spec(steps=2))
    assert capfd.readouterr().out == ""
