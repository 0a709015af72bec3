"""Split weights train as whole ones do: trl's losses, and output that any engine reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zero_lab as lab
from safetensors.torch import load_file

from tunefleet_core.catalog.matrix import record
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import judge_numbers, read_contract
from tunefleet_trl.reference_numbers import measure

TOLERANCE = 1e-5
OFFLOADED = {"offload_optimizer": "cpu", "offload_weights": "cpu"}


@pytest.fixture(scope="module")
def by_trl(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same orders by trl, one process each: adaptation to finished run."""
    found: dict[str, Any] = {}
    for adaptation in ("lora", "rslora", "full"):
        folder = tmp_path_factory.mktemp(adaptation)
        found[adaptation] = lab.by_trl(lab.make_order(base, folder, adaptation=adaptation), folder / "work")
    return found


@pytest.mark.parametrize(
    ("adaptation", "options"),
    [
        ("lora", {}),
        ("lora", {"zero_stage": 2, "offload_optimizer": "cpu"}),
        ("rslora", {"zero_stage": 3}),
        ("full", OFFLOADED),
        ("full", {"zero_stage": 1}),
    ],
)
def test_one_device_trains_as_trl_does(
    base: Path,
    tmp_path: Path,
    by_trl: dict[str, Any],
    adaptation: str,
    options: dict[str, object],
    request: pytest.FixtureRequest,
) -> None:
    """What passed is written to the file that the matrix reads, with TUNEFLEET_RECORD_PROOF set."""
    zero = lab.here(lab.make_order(base, tmp_path, adaptation=adaptation, **options))
    assert lab.losses(zero) == pytest.approx(lab.losses(by_trl[adaptation]), abs=TOLERANCE)
    (preflight,) = zero.preflights
    assert preflight.checkpoint_bytes > 10_000
    assert_same_weights(zero.output, by_trl[adaptation].output)
    contract = read_contract(zero.output)
    assert contract.tokens
    assert judge_numbers(contract, [kept.tuned.as_mapping() for kept in contract.numbers]).is_proof
    test = f"plugins/deepspeed/tests/{request.path.name}::{request.node.name}"
    record("trained", f"deepspeed/sft/{adaptation}//qwen3", test)


def test_fifty_steps_stay_with_trl(base: Path, tmp_path: Path) -> None:
    """As mlx is held to trl, so that one job file means one training on all three."""
    order = lab.make_order(base, tmp_path / "zero", adaptation="full", steps=50)
    zero, trl = lab.losses(lab.here(order)), lab.losses(lab.by_trl(order, tmp_path / "trl"))
    assert len(zero) == len(trl) == 50
    assert zero[1] == pytest.approx(trl[1], rel=1e-4)
    assert zero[50] == pytest.approx(trl[50], rel=2e-2)


def test_tied_weights_are_one_weight(tied_base: Path, tmp_path: Path) -> None:
    """In the run, in the file, and in the numbers of the record, which a fresh load gives too."""
    from transformers import AutoModelForCausalLM

    order = lab.make_order(tied_base, tmp_path / "zero", adaptation="full", model_type="llama")
    zero, trl = lab.here(order), lab.by_trl(order, tmp_path / "trl")
    assert lab.losses(zero) == pytest.approx(lab.losses(trl), abs=TOLERANCE)
    assert_same_weights(zero.output, trl.output)
    assert "lm_head.weight" not in load_file(zero.output / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(zero.output)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    contract = read_contract(zero.output)
    answers = measure(model, [kept.prompt_token_ids for kept in contract.numbers])
    for kept, answer in zip(contract.numbers, answers, strict=True):
        assert answer.logprobs == pytest.approx(kept.tuned.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "capability"),
    [
        (lambda train: setattr(train, "quantization", "nf4"), "TRAINED_FORMATS"),
        (lambda train: setattr(train.method.sft, "packing", True), "PACKING"),
        (lambda train: setattr(train.adapter.lora, "dora", True), "DORA"),
        (lambda train: setattr(train.adapter.lora, "experts", True), "EXPERT_LORA"),
        (lambda train: train.method.dpo.SetInParent(), "METHODS"),
    ],
)
def test_a_worker_refuses_what_a_submit_let_pass(
    base: Path, tmp_path: Path, change: Callable[[Any], object], capability: str
) -> None:
    order = lab.make_order(base, tmp_path)
    change(order.resolved_spec.spec.train)
    with pytest.raises(TunefleetError) as caught:
        lab.here(order)
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert caught.value.metadata["capability"] == capability


def test_bfloat16_trains_on_a_processor_as_in_trl(base: Path, tmp_path: Path) -> None:
    """Within the 8 bits of such a number: DeepSpeed computes every layer in it, torch's autocast not all."""
    order = lab.make_order(base, tmp_path, adaptation="full", zero_stage=2)
    order.resolved_spec.spec.train.dtype = "bfloat16"
    zero, trl = lab.here(order), lab.by_trl(order, tmp_path / "trl")
    assert lab.losses(zero) == pytest.approx(lab.losses(trl), rel=1e-2)
    assert lab.losses(zero) != pytest.approx(lab.losses(trl), abs=TOLERANCE), "it was computed in float32"
    contract = read_contract(zero.output)
    assert judge_numbers(contract, [kept.tuned.as_mapping() for kept in contract.numbers]).is_proof
    assert contract.precision.dtype == "bfloat16"


@pytest.mark.slow  # two processes that import everything
@pytest.mark.parametrize(
    ("adaptation", "options"),
    [("lora", {}), ("full", OFFLOADED), ("full", {"zero_stage": 1}), ("lora", {"zero_stage": 2})],
)
def test_two_devices_train_as_one_of_trl_does(
    base: Path, tmp_path: Path, by_trl: dict[str, Any], adaptation: str, options: dict[str, object]
) -> None:
    zero = lab.succeeded(lab.make_order(base, tmp_path, adaptation=adaptation, **options))
    trl = by_trl[adaptation]
    assert zero.losses == pytest.approx(lab.losses(trl), abs=TOLERANCE)
    assert zero.validation_losses == pytest.approx(lab.validation_losses(trl), abs=TOLERANCE)
    assert len({round(loss, 3) for loss in zero.losses.values()}) > lab.STEPS // 2, "it learns something"
    assert sum(event.HasField("preflight") for event in zero.events) == 1
    assert_same_weights(Path(zero.order.work_dir) / "output", trl.output)
    assert not list(Path(zero.order.work_dir).glob("preflight*"))
    assert not zero.printed, zero.printed


def assert_same_weights(ours: Path, theirs: Path) -> None:
    """Compare two outputs: the same files, and weights that differ by the order of sums alone."""
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    for path in ours.glob("*.safetensors"):
        found, expected = load_file(path), load_file(theirs / path.name)
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            assert found[name].dtype == weight.dtype
            assert (found[name] - weight).abs().max() < 1e-3, name
