"""Two processes that each hold half of the weights learn what one learns, and leave what one leaves."""

from __future__ import annotations

import signal
from pathlib import Path

import process_lab
import pytest
import torch
import trl_lab as lab
from process_lab import EVERY, STEPS, alone, order_of, output_bytes, resumed
from safetensors.torch import load_file

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet_core.errors import Reason, error_from_status
from tunefleet_core.parity import judge_numbers, read_contract
from tunefleet_trl.reference_numbers import measure
from tunefleet_trl.split.options import FSDP2, OPTION

pytestmark = pytest.mark.slow  # each starts two processes that import all libraries

TOLERANCE = 1e-5


def split(order: RunOrder) -> RunOrder:
    """Return an order with its weights split."""
    order.resolved_spec.spec.backend_options.update({OPTION: FSDP2})
    return order


def finished(order: RunOrder) -> process_lab.Hosted:
    """Run an order on two processes to its end."""
    hosted = process_lab.run_hosted(order, process_lab.ENTRY, processes=2)
    assert hosted.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED, hosted.ended.error
    assert not hosted.printed, hosted.printed
    return hosted


@pytest.fixture(scope="module")
def tied(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama whose embedding is its head too."""
    return lab.build_base(tmp_path_factory.mktemp("tied"), model_type="llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def whole(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> process_lab.Hosted:
    """An undisturbed run of every weight of a base with tied weights."""
    folder = tmp_path_factory.mktemp("whole")
    return finished(split(order_of(tied, folder, adaptation="full", model_type="llama")))


def test_an_adapter_on_split_weights_is_that_of_one_process(base: Path, tmp_path: Path) -> None:
    """With layers computed twice, and an answer told while it trains."""
    orders = [order_of(base, tmp_path / name) for name in ("one", "two")]
    for order in orders:
        train = order.resolved_spec.spec.train
        train.gradient_checkpointing = True
        train.samples.prompts.append("red")
        train.samples.every_steps, train.samples.max_new_tokens = 4, 4
        train.checkpoint.best_by, train.data.validation = "validation_loss", "validation.jsonl"
    one, two = alone(orders[0]), finished(split(orders[1]))
    assert two.losses == pytest.approx(one["losses"], abs=TOLERANCE)
    assert two.validation_losses == pytest.approx(one["validation"], abs=TOLERANCE)
    assert len({round(loss, 3) for loss in two.losses.values()}) > STEPS // 2, "it learns something"
    assert sum(event.HasField("preflight") for event in two.events) == 1
    assert_same_weights(orders[1], orders[0])
    contract = read_contract(Path(orders[1].work_dir) / "output")
    assert judge_numbers(contract, [kept.tuned.as_mapping() for kept in contract.numbers]).is_proof


def test_every_weight_is_trained_in_parts_and_written_whole(
    tied: Path, tmp_path: Path, whole: process_lab.Hosted
) -> None:
    from transformers import AutoModelForCausalLM

    order = order_of(tied, tmp_path / "one", adaptation="full", model_type="llama")
    one = alone(order)
    assert whole.losses == pytest.approx(one["losses"], abs=TOLERANCE)
    assert_same_weights(whole.order, order)
    output = Path(whole.order.work_dir) / "output"
    assert "lm_head.weight" not in load_file(output / "model.safetensors"), "tied weights are one"
    model = AutoModelForCausalLM.from_pretrained(output)
    contract = read_contract(output)
    answers = measure(model, [kept.prompt_token_ids for kept in contract.numbers])
    for kept, answer in zip(contract.numbers, answers, strict=True):
        assert answer.logprobs == pytest.approx(kept.tuned.logprobs, abs=1e-4)


def test_each_process_keeps_its_part_and_a_killed_run_ends_in_the_same_bytes(
    tied: Path, tmp_path: Path, whole: process_lab.Hosted
) -> None:
    order = split(order_of(tied, tmp_path, adaptation="full", model_type="llama"))
    has_saved = False

    async def kill(hosted: process_lab.Hosted, event: JobEvent) -> None:
        nonlocal has_saved
        has_saved = has_saved or event.HasField("checkpoint_saved")
        if has_saved and event.metrics.HasField("loss"):
            hosted.processes[1].process.send_signal(signal.SIGKILL)

    killed = process_lab.run_hosted(order, process_lab.ENTRY, processes=2, watch=kill)
    assert error_from_status(killed.ended.error).reason is Reason.WORKER_LOST, "it is retried"
    step = killed.ended.checkpoints[-1].step
    assert step in range(EVERY, STEPS)
    folder = Path(order.work_dir) / "checkpoints" / f"step-{step:08d}"
    parts = [torch.load(folder / f"part-{rank}.pt", weights_only=True)["weights"] for rank in (0, 1)]
    held = [sum(weight.numel() for weight in part.values()) for part in parts]
    assert sum(held) == sum(weight.numel() for weight in load_file(tied / "model.safetensors").values())
    assert max(held) < 0.55 * sum(held), "no process holds much more than its half"
    again = resumed(order, tmp_path / "again", step)
    ended = finished(again)
    assert list(ended.losses) == list(range(step + 1, STEPS + 1))
    assert output_bytes(again) == output_bytes(whole.order)


def assert_same_weights(ours: RunOrder, theirs: RunOrder) -> None:
    """Compare two outputs: the same files, and weights that differ by the order of sums alone."""
    found, expected = (Path(order.work_dir) / "output" for order in (ours, theirs))
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    for path in found.glob("*.safetensors"):
        weights, others = load_file(path), load_file(expected / path.name)
        assert weights.keys() == others.keys()
        for name, weight in others.items():
            assert weights[name].dtype == weight.dtype
            assert (weights[name] - weight).abs().max() < 1e-3, name
