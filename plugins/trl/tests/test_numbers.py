"""The number half of the contract on real models: the real adapter passes, each wrong one is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trl_lab as lab

from tunefleet_core.errors import TunefleetError
from tunefleet_core.parity import check_numbers, read_contract
from tunefleet_trl.loading import Hardware, load_adapter, load_base
from tunefleet_trl.reference_numbers import measure, top_logprobs

OTHER_WORDS = (("red", "rouge"), ("blue", "bleu"), ("green", "vert"), ("white", "blanc"))
Measured = list[dict[int, float]]


def _measure(trained: lab.MemoryContext, adapter: Path | None, *, dtype: str = "float32") -> Measured:
    """Return what an engine measures that serves this adapter, loaded from its folder as engines do."""
    contract = read_contract(trained.output)
    model = load_base(trained.order.resolved_spec.base, Hardware(kind="cpu", dtype=dtype))
    if adapter:
        model = load_adapter(model, str(adapter))
    model.eval()
    return [top_logprobs(model, record.prompt_token_ids).as_mapping() for record in contract.numbers]


def _spoiled(trained: lab.MemoryContext, folder: Path, spoil: Callable[[Path], None]) -> Path:
    shutil.copytree(trained.output, folder)
    spoil(folder)
    return folder


def _alpha_times_four(folder: Path) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["lora_alpha"] *= 4
    path.write_text(json.dumps(config))


def _all_zero(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in load_file(path).items()}, path)


def test_prompts_taken_at_once_have_the_numbers_of_single_ones(trained: lab.MemoryContext) -> None:
    contract = read_contract(trained.output)
    model = load_base(trained.order.resolved_spec.base, Hardware(kind="cpu", dtype="float32"))
    model = load_adapter(model, str(trained.output)).eval()
    prompts = [record.prompt_token_ids for record in contract.numbers]
    prompts.append(prompts[0][:5])
    assert len({len(prompt) for prompt in prompts}) > 1, "else nothing is filled up"
    for one, prompt in zip(measure(model, prompts), prompts, strict=True):
        alone = top_logprobs(model, prompt)
        assert one.as_mapping() == pytest.approx(alone.as_mapping(), abs=1e-5)


def test_the_real_adapter_is_accepted(trained: lab.MemoryContext) -> None:
    verdict = check_numbers(read_contract(trained.output), _measure(trained, trained.output))
    assert verdict.distance_to_tuned < 1e-4
    assert verdict.distance_to_base > 1


def test_the_real_adapter_in_bfloat16_is_accepted_as_that(trained: lab.MemoryContext) -> None:
    measured = _measure(trained, trained.output, dtype="bfloat16")
    verdict = check_numbers(read_contract(trained.output), measured, served_dtype="bfloat16")
    assert 0.001 < verdict.distance_to_tuned < 0.12


@pytest.mark.parametrize(
    ("spoil", "looks_like"),
    [(_alpha_times_four, "or the adapter at a scale far from"), (_all_zero, "equal the base")],
)
def test_a_spoiled_adapter_is_refused(
    trained: lab.MemoryContext, tmp_path: Path, spoil: Callable[[Path], None], looks_like: str
) -> None:
    adapter = _spoiled(trained, tmp_path / "adapter", spoil)
    with pytest.raises(TunefleetError, match=looks_like):
        check_numbers(read_contract(trained.output), _measure(trained, adapter))


def test_the_base_under_the_adapters_name_is_refused(trained: lab.MemoryContext) -> None:
    with pytest.raises(TunefleetError, match="equal the base"):
        check_numbers(read_contract(trained.output), _measure(trained, None))


def test_a_swapped_adapter_is_refused(base: Path, trained: lab.MemoryContext, tmp_path: Path) -> None:
    other = lab.run_colours(base, tmp_path, lab.train_spec(steps=40, dropout=0.0), words=OTHER_WORDS)
    with pytest.raises(TunefleetError, match="another adapter, another base"):
        check_numbers(read_contract(trained.output), _measure(trained, other.output))


def test_an_adapter_that_learned_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    idle = lab.run_colours(base, tmp_path, lab.train_spec(steps=2, learning_rate=0.0))
    with pytest.raises(TunefleetError, match="does nothing"):
        check_numbers(read_contract(idle.output), _measure(idle, idle.output))


def test_four_times_the_scale_is_named_where_the_model_still_answers_linearly(
    base: Path, tmp_path: Path
) -> None:
    light = lab.run_colours(base, tmp_path, lab.train_spec(steps=5, learning_rate=1e-3, dropout=0.0))
    contract = read_contract(light.output)
    assert check_numbers(contract, _measure(light, light.output)).accepted
    adapter = _spoiled(light, tmp_path / "adapter", _alpha_times_four)
    with pytest.raises(TunefleetError, match=r"scale about (3\.[5-9]|4\.\d)x"):
        check_numbers(contract, _measure(light, adapter))
