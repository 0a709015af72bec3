"""Answers to fixed prompts while a run trains, and what the model's work makes up of its device."""

from __future__ import annotations

from pathlib import Path

import pytest
import trl_lab as lab

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.run_health import peak_flops
from tunefleet_trl.life import model_work as of_model


def _spec(steps: int, **policy: object) -> lab.JobSpec:
    spec = lab.train_spec(steps=steps, dropout=0.1)  # dropout: a drawn random number would show
    spec.train.samples.prompts.extend(["red", "blue"])
    for name, value in policy.items():
        setattr(spec.train.samples, name, value)
    return spec


@pytest.fixture(scope="module")
def sampled(base: Path, tmp_path_factory: pytest.TempPathFactory) -> lab.MemoryContext:
    """A run that has learned the colours and was asked for two of them every fifteen steps."""
    spec = _spec(45, every_steps=15, max_new_tokens=6)
    spec.train.adapter.lora.dropout = 0.0
    return lab.run_colours(base, tmp_path_factory.mktemp("sampled"), spec)


def test_prompts_are_answered_before_the_first_step_and_every_so_many(sampled: lab.MemoryContext) -> None:
    asked = [(step, prompt) for step, prompt, _ in sampled.samples]
    assert asked == [(step, prompt) for step in (0, 15, 30, 45) for prompt in ("red", "blue")]


def test_the_answers_show_what_is_learned(sampled: lab.MemoryContext) -> None:
    answers = {(step, prompt): answer for step, prompt, answer in sampled.samples}
    assert answers[0, "red"] != "rot"
    assert answers[45, "red"] == "rot"
    assert answers[45, "blue"] == "blau"


def test_answering_leaves_no_trace_in_the_result(base: Path, tmp_path: Path) -> None:
    results: list[bytes] = []
    for name in ("with", "without"):
        folder = tmp_path / name
        folder.mkdir()
        spec = _spec(4, every_steps=1, max_new_tokens=2)
        if name == "without":
            spec.train.ClearField("samples")
        context = lab.run_colours(base, folder, spec)
        assert bool(context.samples) == (name == "with")
        results.append((context.output / "adapter_model.safetensors").read_bytes())
    assert results[0] == results[1]


def test_a_cpu_has_no_published_peak_and_the_figure_is_absent(sampled: lab.MemoryContext) -> None:
    assert sampled.told
    assert not any(metrics.HasField("mfu") for metrics in sampled.told)


def test_utilisation_is_told_where_the_device_is_known(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one thing made up is the device's name: there is no such device here."""
    monkeypatch.setattr("tunefleet_trl.trainer.device_name", lambda hardware: "NVIDIA L4")
    context = lab.run_colours(base, tmp_path, lab.train_spec(steps=2))
    told = [metrics for metrics in context.told if metrics.HasField("loss")]
    peak = peak_flops("NVIDIA L4", "float32")
    assert peak is not None
    for metrics in told:
        # A tiny model: between its bare matrix products and ten times that.
        each = metrics.mfu * peak / metrics.tokens_per_second
        assert 4 * 80_000 < each < 6 * 10 * 80_000


def test_the_work_of_a_model_leaves_idle_experts_and_looked_up_embeddings_out(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = lab.build_base(tmp_path / "moe", model_type="qwen3_moe", tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    counted = of_model.model_work(model)
    experts = sum(item.numel() for name, item in model.named_parameters() if ".experts." in name)
    embedding = model.get_input_embeddings().weight.numel()
    whole = sum(item.numel() for item in model.parameters())
    assert counted.parameters == whole - embedding - experts // 2, "2 of 4 experts see a token"
    assert (counted.layers, counted.width) == (2, 64)


def test_a_prompt_that_the_template_refuses_ends_the_run_with_a_reason(base: Path, tmp_path: Path) -> None:
    data = lab.colours(tmp_path / "train.jsonl")
    resolved = lab.resolved(base, data=[("train", data)], spec=_spec(2))
    text = resolved.chat_template.text
    refusal = "{% if messages[-1].content == 'blue' %}{{ raise_exception('no blue') }}{% endif %}"
    resolved.chat_template.text = refusal + text
    from tunefleet_trl.rank import TrlRank

    with pytest.raises(TunefleetError, match="no blue") as caught:
        TrlRank().run(lab.MemoryContext(lab.order(resolved, tmp_path / "work")))
    assert caught.value.reason is Reason.TEMPLATE_MISMATCH
