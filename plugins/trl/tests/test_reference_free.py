"""ORPO and SimPO on tiny models: they learn what was preferred, on exactly the answers, and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl_lab as lab

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.parity import read_contract
from tunefleet_trl.rank import TrlRank

METHODS = ("orpo", "simpo")


def order_of(
    base: Path, folder: Path, method: str, *, adaptation: str = "lora", steps: int = 20, micro: int = 4
) -> lab.RunOrder:
    folder.mkdir(exist_ok=True)
    rate = 1e-3 if adaptation == "full" else 5e-3
    spec = lab.adapted_spec(adaptation, steps=steps, learning_rate=rate, micro_batch_size=micro, batch_size=4)
    if adaptation != "full":
        spec.train.adapter.lora.dropout = 0.0
    getattr(spec.train.method, method).SetInParent()
    rows = [{"prompt": word, "chosen": answer, "rejected": "nein"} for word, answer in lab.PAIRS]
    data = [
        ("train", lab.write_rows(folder / "rows.jsonl", rows * 4)),
        ("validation", lab.write_rows(folder / "validation.jsonl", rows)),
    ]
    return lab.order(lab.resolved(base, data=data, spec=spec), folder / "work")


def steps_of(context: lab.MemoryContext) -> list[Any]:
    return [metrics for metrics in context.told if metrics.HasField("loss")]


@pytest.mark.parametrize("adaptation", ["lora", "full", "qlora"])
@pytest.mark.parametrize("method", METHODS)
def test_the_margin_grows(
    base: Path, tmp_path: Path, method: str, adaptation: str, request: pytest.FixtureRequest
) -> None:
    context = lab.MemoryContext(order_of(base, tmp_path, method, adaptation=adaptation))
    TrlRank().run(context)
    steps = steps_of(context)
    validations = [metrics for metrics in context.told if metrics.HasField("validation_loss")]
    assert [metrics.step for metrics in steps] == list(range(1, 21))
    before, after = steps[0].extra, validations[-1].extra
    grown = after["validation/rewards/margins"] - before["rewards/margins"]
    assert grown > (0.05 if method == "orpo" else 1.0)
    assert after["validation/rewards/accuracies"] == 1.0
    assert steps[-1].loss < steps[0].loss
    if method == "orpo":
        assert after["validation/logps/chosen"] > before["logps/chosen"] + 1, "the answers are learned too"
        assert after["validation/nll_loss"] == pytest.approx(-after["validation/logps/chosen"], abs=1e-4)
    assert steps[-1].tokens > steps[0].tokens > 0
    assert len(context.preflights) == 1
    contract = read_contract(context.output)
    assert (contract.adapter is None) == (adaptation == "full")
    assert contract.numbers[0].base != contract.numbers[0].tuned
    form = "nf4" if adaptation == "qlora" else ""
    lab.record_training(request, method, adaptation.removeprefix("q"), form=form)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_loss_is_the_papers_and_no_matter_how_a_batch_is_cut(
    base: Path, tmp_path: Path, method: str
) -> None:
    from tunefleet_core.rendering import Renderer, answered_rows, load_tokenizer
    from tunefleet_trl.loading import load_base, prepare_hardware

    losses = []
    for micro in (4, 2, 1):
        order = order_of(base, tmp_path / str(micro), method, steps=1, micro=micro)
        order.resolved_spec.data[0].CopyFrom(order.resolved_spec.data[1])  # all four rows are one batch
        order.resolved_spec.data[0].role = "train"
        context = lab.MemoryContext(order)
        TrlRank().run(context)
        losses.append(steps_of(context)[0].loss)
    spec = order.resolved_spec
    model = load_base(spec.base, prepare_hardware(order, dtype="float32")).eval()
    renderer = Renderer(load_tokenizer(spec.base), spec.chat_template)
    wanted = []
    for row in answered_rows(method, spec.data[0].path, renderer):
        means = []
        for answer in row.answers:
            ids = torch.tensor([answer.rendered.input_ids])
            with torch.no_grad():
                logps = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
            taken = torch.tensor(answer.rendered.mask[1:], dtype=torch.bool)
            means.append(logps.gather(1, ids[0, 1:, None])[:, 0][taken].mean())
        chosen, rejected = means
        if method == "orpo":
            odds = [mean - torch.log1p(-torch.exp(mean)) for mean in means]
            wanted.append(-chosen - 0.1 * torch.nn.functional.logsigmoid(odds[0] - odds[1]))
        else:
            wanted.append(-torch.nn.functional.logsigmoid(2.0 * (chosen - rejected) - 1.0))
    mean = float(torch.stack(wanted).mean())
    assert losses == pytest.approx([mean] * 3, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_paused_goes_on_to_the_same_bytes(base: Path, tmp_path: Path, method: str) -> None:
    whole = lab.MemoryContext(order_of(base, tmp_path, method, steps=6))
    TrlRank().run(whole)
    stopped = lab.RunOrder()
    stopped.CopyFrom(whole.order)
    stopped.work_dir = str(tmp_path / "stopped")
    save, go_on = StopMode.STOP_MODE_SAVE, StopMode.STOP_MODE_UNSPECIFIED
    context = lab.MemoryContext(stopped, stop_when=lambda seen: save if seen.step >= 3 else go_on)
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    (step,) = context.checkpoints
    resumed = lab.RunOrder()
    resumed.CopyFrom(whole.order)
    resumed.work_dir = str(tmp_path / "resumed")
    resumed.resume_from, resumed.resume_step = str(context.checkpoint_folder(step)), step
    resumed.resolved_spec.spec.train.preflight = False
    again = lab.MemoryContext(resumed)
    TrlRank().run(again)
    name = "adapter_model.safetensors"
    assert (tmp_path / "resumed" / "output" / name).read_bytes() == (whole.output / name).read_bytes()
    assert [item.tokens for item in steps_of(again)] == [item.tokens for item in steps_of(whole)[step:]]


def test_a_trial_changes_nothing(base: Path, tmp_path: Path) -> None:
    outputs = []
    for wanted in (True, False):
        order = order_of(base, tmp_path / str(wanted), "simpo", steps=2)
        order.resolved_spec.spec.train.preflight = wanted
        context = lab.MemoryContext(order)
        TrlRank().run(context)
        tokens = [metrics.tokens for metrics in steps_of(context)]
        outputs.append(((context.output / "adapter_model.safetensors").read_bytes(), tokens))
    assert outputs[0] == outputs[1]


def test_auxiliary_loss_of_routers_stays_in_the_loss(tmp_path: Path) -> None:
    folder = lab.build_base(
        tmp_path / "base", model_type="qwen3_moe", output_router_logits=True, router_aux_loss_coef=0.01
    )
    order = order_of(folder, tmp_path / "run", "orpo", steps=2)
    spec = order.resolved_spec.spec
    order.resolved_spec.CopyFrom(
        lab.resolved(
            folder,
            model_type="qwen3_moe",
            data=[(data.role, Path(data.path)) for data in order.resolved_spec.data],
            spec=spec,
        )
    )
    context = lab.MemoryContext(order)
    TrlRank().run(context)
    assert steps_of(context)[0].extra["aux_loss"] > 0
    assert "expert_load" in steps_of(context)[0].extra
