"""Distillation on tiny models: by a teacher's probabilities, or by what it writes; and bitwise again."""

from __future__ import annotations

import json
from pathlib import Path

import process_lab
import pytest
import trl_lab as lab
from chat_stand_in import ChatStandIn
from safetensors.torch import load_file

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.resolved_pb2 import CompanionModel
from tunefleet_core.backend import RunStopped
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.template import choose_template
from tunefleet_core.errors import TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_families import QWEN3
from tunefleet_trl.rank import TrlRank

GERMAN = dict(lab.PAIRS)


@pytest.fixture(scope="module")
def teacher(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model that knows the colours, made from the base."""
    spec = lab.adapted_spec("full", steps=30, learning_rate=3e-3)
    return lab.run_colours(base, tmp_path_factory.mktemp("teacher"), spec).output


def spec_of(share: float, *, steps: int = 24, beta: float = 0.5) -> lab.JobSpec:
    spec = lab.adapted_spec("lora", steps=steps, learning_rate=1e-2, micro_batch_size=2, batch_size=4)
    spec.train.adapter.lora.dropout = 0.0
    options = spec.train.method.distill
    options.on_policy_share, options.beta, options.temperature = share, beta, 1.0
    options.max_completion_length = 8
    options.teacher.model.model = "teacher"
    return spec


def order_of(base: Path, folder: Path, spec: lab.JobSpec, teacher: Path) -> lab.RunOrder:
    folder.mkdir(exist_ok=True)
    rows = [lab.chat(*pair) for pair in lab.PAIRS]
    data = [
        ("train", lab.write_rows(folder / "rows.jsonl", rows * 4)),
        ("validation", lab.write_rows(folder / "validation.jsonl", rows)),
    ]
    resolved = lab.resolved(base, data=data, spec=spec)
    field = "train.method.distill.teacher.model.model"
    resolved.companions.add(field=field, base=read_base(teacher))
    return lab.order(resolved, folder / "work", companion_adapter_dirs=[""])


@pytest.mark.parametrize(
    ("share", "beta"),
    [
        (0.0, 0.0),
        pytest.param(1.0, 1.0, marks=pytest.mark.slow),
        pytest.param(0.5, 0.5, marks=pytest.mark.slow),
    ],
)
def test_the_distance_from_the_teacher_falls(
    base: Path, teacher: Path, tmp_path: Path, share: float, beta: float
) -> None:
    context = lab.MemoryContext(order_of(base, tmp_path, spec_of(share, beta=beta), teacher))
    TrlRank().run(context)
    distances = [item.extra["validation/kl"] for item in context.told if item.HasField("validation_loss")]
    assert distances[-1] < 0.5 * distances[0]
    steps = [item for item in context.told if item.HasField("loss")]
    drawn = [item.extra["on_policy"] for item in steps]
    assert 0 < sum(drawn) / len(drawn) < 1 if share == 0.5 else set(drawn) == {share}
    assert steps[-1].tokens > steps[0].tokens > 0
    assert len(context.preflights) == 1
    assert read_contract(context.output).numbers


@pytest.mark.slow  # three runs that write answers
def test_a_run_that_was_paused_draws_the_same_answers(base: Path, teacher: Path, tmp_path: Path) -> None:
    spec = spec_of(0.5, steps=6)
    spec.train.adapter.lora.dropout = 0.1
    whole = lab.MemoryContext(order_of(base, tmp_path / "whole", spec, teacher))
    TrlRank().run(whole)
    stopped = lab.RunOrder()
    stopped.CopyFrom(whole.order)
    stopped.work_dir = str(tmp_path / "stopped")
    save, go_on = StopMode.STOP_MODE_SAVE, StopMode.STOP_MODE_UNSPECIFIED
    context = lab.MemoryContext(stopped, stop_when=lambda seen: save if seen.step >= 2 else go_on)
    with pytest.raises(RunStopped):
        TrlRank().run(context)
    (step,) = context.checkpoints
    process_lab.run_in_new_process(process_lab.resumed(context.order, tmp_path / "resumed", step))
    name = "adapter_model.safetensors"
    assert (tmp_path / "resumed" / "output" / name).read_bytes() == (whole.output / name).read_bytes()


def asked_order(base: Path, folder: Path, url: str, *, steps: int = 24) -> lab.RunOrder:
    folder.mkdir(exist_ok=True)
    spec = lab.adapted_spec("lora", steps=steps, learning_rate=1e-2)
    options = spec.train.method.distill
    options.max_completion_length = 16
    endpoint = options.teacher.endpoint
    endpoint.url, endpoint.model, endpoint.api_key, endpoint.retries = url, "big", "TEACHER", 1
    rows = [{"prompt": word} for word in GERMAN]
    data = [
        ("train", lab.write_rows(folder / "rows.jsonl", rows * 4)),
        ("validation", lab.write_rows(folder / "validation.jsonl", rows)),
    ]
    return lab.order(lab.resolved(base, data=data, spec=spec), folder / "work")


def test_what_an_endpoint_writes_is_learned_and_kept_for_a_resume(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEFLEET_SECRET_TEACHER", "a-key")
    cut = {"red"}
    with ChatStandIn(lambda said: GERMAN[said], cut=cut, key="a-key") as fake:
        context = lab.MemoryContext(asked_order(base, tmp_path / "whole", fake.url))
        context.order.resolved_spec.spec.train.checkpoint.every_steps = 12
        TrlRank().run(context)
        assert fake.asked == 20
        assert "4 of 16 answers of the teacher to 'rows.jsonl' are empty or were cut" in context.notices[0]
    losses = [item.validation_loss for item in context.told if item.HasField("validation_loss")]
    assert losses[-1] < 0.3 * losses[0]
    folder = context.checkpoint_folder(12)
    rows = [json.loads(line) for line in (folder / "teacher-answers-0.jsonl").read_text().splitlines()]
    assert {row["completion"] for row in rows} == set(GERMAN.values()) - {"rot"}
    # The endpoint is gone now: what it said stands in the checkpoint.
    resumed = asked_order(base, tmp_path / "resumed", fake.url)
    resumed.resume_from, resumed.resume_step = str(folder), 12
    again = lab.MemoryContext(resumed)
    TrlRank().run(again)
    name = "adapter_model.safetensors"
    one, other = load_file(context.output / name), load_file(again.output / name)
    assert all(one[key].equal(other[key]) for key in one)


def test_tools_that_an_endpoint_would_not_hear_of_are_refused_by_line(base: Path, tmp_path: Path) -> None:
    facts = read_base(base)
    tool = {"type": "function", "function": {"name": "mix", "parameters": {"type": "object"}}}
    rows = [{"prompt": "red"}, {"prompt": "blue", "tools": [tool]}]
    order = AuditOrder(
        base=facts,
        chat_template=choose_template(facts, QWEN3).template,
        files=[AuditFile(role="train", path=str(lab.write_rows(tmp_path / "rows", rows)))],
        loss_on="assistant",
        method="distill",
    )
    assert TrlRank().audit(order).files[0].mask.rows == 2
    order.endpoint.url = "http://127.0.0.1:9/v1"
    with pytest.raises(TunefleetError, match="rows:2: tools: a teacher behind an endpoint is not sent tools"):
        TrlRank().audit(order)


def test_a_teacher_of_other_tokens_and_a_secret_that_is_not_there_are_refused_by_the_audit(
    base: Path, tmp_path: Path
) -> None:
    facts = read_base(base)
    rows = lab.write_rows(tmp_path / "rows", [{"prompt": "red"}])
    order = AuditOrder(
        base=facts,
        chat_template=choose_template(facts, QWEN3).template,
        files=[AuditFile(role="train", path=str(rows))],
        loss_on="assistant",
        method="distill",
    )
    assert TrlRank().audit(order).files[0].mask.rows == 1
    order.endpoint.api_key = "NOBODYS"
    with pytest.raises(TunefleetError, match="names the secret 'NOBODYS', which this trainer does not have"):
        TrlRank().audit(order)
    order.ClearField("endpoint")
    other = lab.build_base(tmp_path / "other", model_type="gpt_oss")
    order.companions.append(CompanionModel(field="train.x", base=read_base(other)))
    with pytest.raises(TunefleetError, match="has another tokenizer than the base"):
        TrlRank().audit(order)
