"""Methods beside supervised training in two processes, and a run of two that is lost on one of them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import process_lab
import pytest
import trl_lab as lab
from chat_stand_in import ChatStandIn
from spoiling_rank import LOST_AT

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.catalog.base import read_base
from tunefleet_trl.rank import TrlRank

pytestmark = pytest.mark.slow  # each starts two processes that import all libraries

STEPS = 8
SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED


def pair_order(base: Path, folder: Path, method: str) -> RunOrder:
    """Return an order for 8 steps of 4 pairs of different lengths, one at a time."""
    spec = lab.adapted_spec("lora", steps=STEPS, learning_rate=5e-3, micro_batch_size=1, batch_size=4)
    spec.train.adapter.lora.dropout = 0.0
    spec.train.checkpoint.every_steps = 3
    getattr(spec.train.method, method).SetInParent()
    rows = [
        {
            "prompt": [{"role": "user", "content": word}],
            "chosen": [{"role": "assistant", "content": answer + "!" * number}],
            "rejected": [{"role": "assistant", "content": "nein"}],
        }
        for number, (word, answer) in enumerate(lab.PAIRS * 4)
    ]
    folder.mkdir()
    data = [("train", lab.write_rows(folder / "train.jsonl", rows))]
    return lab.order(lab.resolved(base, data=data, spec=spec), folder / "work")


@pytest.mark.parametrize("method", ["dpo", "simpo", "reward"])
def test_pairs_teach_two_processes_what_they_teach_one(base: Path, tmp_path: Path, method: str) -> None:
    context = lab.MemoryContext(pair_order(base, tmp_path / "one", method))
    TrlRank().run(context)
    one = {metrics.step: metrics.loss for metrics in context.told if metrics.HasField("loss")}
    two = process_lab.run_hosted(pair_order(base, tmp_path / "two", method), process_lab.ENTRY, processes=2)
    assert two.ended.outcome == SUCCEEDED, two.ended.error
    assert two.losses == pytest.approx(one, abs=1e-5)
    assert len({round(loss, 3) for loss in one.values()}) > STEPS // 2, "it learns something"


def test_labels_teach_two_processes_what_they_teach_one(base: Path, tmp_path: Path) -> None:
    """With as many rows at a time over both as one takes: the distance from the base is of all of them."""
    found: list[dict[int, tuple[float, float]]] = []
    for processes in (1, 2):
        spec = lab.adapted_spec("lora", steps=STEPS, learning_rate=5e-3, batch_size=4)
        spec.train.optim.micro_batch_size = 4 // processes
        spec.train.adapter.lora.dropout = 0.0
        spec.train.method.kto.desirable_weight, spec.train.method.kto.undesirable_weight = 1.0, 0.05
        rows = [
            {
                "prompt": [{"role": "user", "content": word}],
                "completion": [{"role": "assistant", "content": said + "!" * number}],
                "label": said != "nein",
            }
            for number, (word, answer) in enumerate(lab.PAIRS * 2)
            for said in (answer, "nein")
        ]
        folder = tmp_path / str(processes)
        folder.mkdir()
        data = [("train", lab.write_rows(folder / "rows.jsonl", rows))]
        order = lab.order(lab.resolved(base, data=data, spec=spec), folder / "work")
        if processes == 1:
            context = lab.MemoryContext(order)
            TrlRank().run(context)
            told = context.told
        else:
            told = [
                event.metrics
                for event in process_lab.run_hosted(order, process_lab.ENTRY, processes=2).events
            ]
        found.append({item.step: (item.loss, item.extra["kl"]) for item in told if item.HasField("loss")})
    one, two = found
    assert max(kl for _, kl in one.values()) > 0.1, "else nothing is shown of the distance"
    for step, figures in one.items():
        assert two[step] == pytest.approx(figures, abs=1e-4), step


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_answers_that_two_processes_draw_teach_both_and_a_resumed_run_draws_the_same(
    base: Path, tmp_path: Path, method: str
) -> None:
    """It resumes within an epoch that is not the first, so the order of the prompts counts too."""
    spec = lab.adapted_spec("lora", steps=15, learning_rate=1e-2, micro_batch_size=2, batch_size=4)
    spec.train.adapter.lora.dropout = 0.0
    spec.train.checkpoint.every_steps = 11
    options = getattr(spec.train.method, method)
    options.num_generations, options.max_completion_length, options.beta = 8, 6, 0.01
    options.rewards.add(name="regex").options["pattern"] = "[a-m]"
    rows = lab.write_rows(tmp_path / "rows.jsonl", [{"prompt": word} for word, _ in lab.PAIRS] * 2)
    order = lab.order(lab.resolved(base, data=[("train", rows)], spec=spec), tmp_path / "work")
    run = process_lab.run_hosted(order, process_lab.ENTRY, processes=2)
    assert run.ended.outcome == SUCCEEDED, run.ended.error
    told = [event.metrics for event in run.events if event.metrics.HasField("loss")]
    rewards = [metrics.extra["reward"] for metrics in told]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.3
    assert all(metrics.extra["reward"] * 32 % 1 == pytest.approx(0) for metrics in told), "of 32 answers"
    again = process_lab.resumed(order, tmp_path / "again", 11)
    ended = process_lab.run_hosted(again, process_lab.ENTRY, processes=2)
    assert list(ended.losses) == [12, 13, 14, 15]
    assert process_lab.output_bytes(again) == process_lab.output_bytes(order)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other random weights than the base's."""
    return lab.build_base(tmp_path_factory.mktemp("teacher"), model_type="llama", tie_word_embeddings=True)


def distill_order(base: Path, teacher: Path, folder: Path, *, share: float, micro: int) -> RunOrder:
    """Return an order for 7 steps of 4 rows of different lengths; the teacher knows nothing."""
    spec = lab.adapted_spec("lora", steps=7, learning_rate=1e-2, micro_batch_size=micro, batch_size=4)
    spec.train.adapter.lora.dropout = 0.0
    spec.train.checkpoint.every_steps = 4
    options = spec.train.method.distill
    options.on_policy_share, options.beta, options.max_completion_length = share, 0.5, 4
    options.teacher.model.model = "teacher"
    rows = [lab.chat(word, answer + "!" * number) for number, (word, answer) in enumerate(lab.PAIRS * 4)]
    folder.mkdir()
    data = [("train", lab.write_rows(folder / "rows.jsonl", rows))]
    resolved = lab.resolved(base, data=data, spec=spec)
    resolved.companions.add(field="train.method.distill.teacher.model.model", base=read_base(teacher))
    return lab.order(resolved, folder / "work", companion_adapter_dirs=[""])


def test_a_teacher_teaches_two_processes_what_it_teaches_one(
    base: Path, teacher: Path, tmp_path: Path
) -> None:
    """Every micro batch counts the same, whoever takes it; distance and tokens are of both."""
    context = lab.MemoryContext(distill_order(base, teacher, tmp_path / "one", share=0.0, micro=1))
    TrlRank().run(context)
    order = distill_order(base, teacher, tmp_path / "two", share=0.0, micro=1)
    two = process_lab.run_hosted(order, process_lab.ENTRY, processes=2)
    assert two.ended.outcome == SUCCEEDED, two.ended.error
    one, both = (
        {item.step: (item.loss, item.extra["kl"]) for item in told if item.HasField("loss")}
        for told in (context.told, [event.metrics for event in two.events])
    )
    for step, figures in one.items():
        assert both[step] == pytest.approx(figures, abs=1e-4), step
    assert [event.metrics.tokens for event in two.events if event.metrics.HasField("loss")] == [
        item.tokens for item in context.told if item.HasField("loss")
    ]


def test_two_processes_that_draw_for_a_teacher_draw_the_same_when_resumed(
    base: Path, teacher: Path, tmp_path: Path
) -> None:
    order = distill_order(base, teacher, tmp_path / "two", share=0.5, micro=2)
    run = process_lab.run_hosted(order, process_lab.ENTRY, processes=2)
    assert run.ended.outcome == SUCCEEDED, run.ended.error
    again = process_lab.resumed(order, tmp_path / "again", 4)
    ended = process_lab.run_hosted(again, process_lab.ENTRY, processes=2)
    assert list(ended.losses) == [5, 6, 7]
    assert process_lab.output_bytes(again) == process_lab.output_bytes(order)


def test_a_teacher_behind_an_endpoint_is_asked_once_for_both_processes(base: Path, tmp_path: Path) -> None:
    def order(folder: Path, url: str) -> RunOrder:
        spec = lab.adapted_spec("lora", steps=4, learning_rate=1e-2, micro_batch_size=2, batch_size=4)
        spec.train.checkpoint.every_steps = 2
        endpoint = spec.train.method.distill.teacher.endpoint
        endpoint.url, endpoint.model, endpoint.retries = url, "big", 0
        spec.train.method.distill.max_completion_length = 16
        folder.mkdir()
        prompts = [{"prompt": word} for word, _ in lab.PAIRS * 4]
        data = [("train", lab.write_rows(folder / "rows.jsonl", prompts))]
        return lab.order(lab.resolved(base, data=data, spec=spec), folder / "work")

    with ChatStandIn(dict(lab.PAIRS).__getitem__) as fake:
        whole = order(tmp_path / "whole", fake.url)
        run = process_lab.run_hosted(whole, process_lab.ENTRY, processes=2)
        assert run.ended.outcome == SUCCEEDED, run.ended.error
        assert fake.asked == 16
    # The endpoint is gone now: what it said stands in the checkpoint.
    again = process_lab.resumed(whole, tmp_path / "again", 2)
    ended = process_lab.run_hosted(again, process_lab.ENTRY, processes=2)
    assert list(ended.losses) == [3, 4]
    assert process_lab.output_bytes(again) == process_lab.output_bytes(whole)
    # And a run that would have to ask ends with what is wrong, on both.
    lost = process_lab.run_hosted(order(tmp_path / "lost", fake.url), process_lab.ENTRY, processes=2)
    assert lost.ended.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    assert fake.url in lost.ended.error.message


def test_rows_of_a_mixture_are_counted_over_both_processes(base: Path, tmp_path: Path) -> None:
    spec = lab.adapted_spec("lora", steps=3, micro_batch_size=1, batch_size=4)
    data = [
        ("train", lab.write_rows(tmp_path / "one.jsonl", [lab.chat(*pair) for pair in lab.PAIRS] * 2)),
        (
            "train",
            lab.write_rows(tmp_path / "two.jsonl", [lab.chat("sun", "sonne"), lab.chat("moon", "mond")] * 2),
        ),
    ]
    order = lab.order(lab.resolved(base, data=data, spec=spec), tmp_path / "work")
    run = process_lab.run_hosted(order, process_lab.ENTRY, processes=2)
    told = [event.metrics.extra for event in run.events if event.metrics.HasField("loss")]
    assert [step["rows/one"] + step["rows/two"] for step in told] == [4, 4, 4]
    assert sum(step["rows/two"] for step in told) == 4


def test_a_run_of_two_that_is_lost_on_one_goes_on_from_the_last_good_state_of_both(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = str(Path(__file__).resolve().parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((here, os.environ.get("PYTHONPATH", ""))))
    spec = lab.adapted_spec("lora", steps=STEPS, micro_batch_size=1)
    spec.train.checkpoint.every_steps = 4
    spec.train.divergence.max_rollbacks = 2
    rows = lab.write_rows(tmp_path / "train.jsonl", [lab.chat(*pair) for pair in lab.PAIRS] * 4)
    order = lab.order(lab.resolved(base, data=[("train", rows)], spec=spec), tmp_path / "work")
    run = process_lab.run_hosted(order, "spoiling_rank:SpoilingRank", processes=2)
    assert run.ended.outcome == SUCCEEDED, run.ended.error
    (told,) = [event.rollback for event in run.events if event.HasField("rollback")]
    assert (told.step, told.to_step, told.rollbacks) == (LOST_AT, 4, 1)
    assert math.isnan(told.loss)
    steps = [event.metrics for event in run.events if event.metrics.HasField("loss")]
    assert [metrics.step for metrics in steps] == [*range(1, LOST_AT), *range(5, STEPS + 1)]
    rates = [metrics.learning_rate for metrics in steps]
    assert rates[LOST_AT - 1] == pytest.approx(rates[4] / 2), "step 5, before and after"
    assert (Path(order.work_dir) / "output" / "adapter_model.safetensors").is_file()
