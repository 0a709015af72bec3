"""Scores that a person can check by hand, and an evaluation on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trl_lab as lab

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet_core.backend import RunStopped
from tunefleet_core.errors import TunefleetError
from tunefleet_core.evaluation.scoring import bootstrap_interval, score_row, scores, wilson_interval
from tunefleet_trl.rank import TrlRank


@pytest.mark.parametrize(
    ("right", "given", "exact", "valid", "f1"),
    [
        ("Paris.", " Paris.\n", 1, 0, 1),
        ("Paris", "paris", 0, 0, 0),
        ("the red car", "a red car", 0, 0, 2 / 3),
        ("", "", 1, 0, 1),
        ("x", "", 0, 0, 0),
        ('{"a": 1, "b": "x"}', '{"b": "x", "a": 1}', 0, 1, 1),
        ('{"a": 1, "b": "x"}', '{"a": 1, "b": "y"}', 0, 1, 1 / 2),
        ('{"a": 1, "b": "x"}', '{"a": 1}', 0, 1, 2 / 3),
        ('{"a": 1}', '{"a": true}', 0, 1, 0),
        ('{"a": 1}', "1", 0, 0, 2 / 8),
        ('{"a": 1}', '{"a": 1', 0, 0, 12 / 13),
        ('{"a": 1}', "[1]", 0, 0, 2 * 1 / 10),
        ("4", "4", 1, 1, 1),
        ("4", "NaN", 0, 0, 0),
    ],
)
def test_a_row_is_scored_as_by_hand(right: str, given: str, exact: float, valid: float, f1: float) -> None:
    score = score_row(right, given)
    assert (score.exact_match, score.json_valid) == (exact, valid)
    assert score.f1 == pytest.approx(f1, abs=1e-9)


def test_the_wilson_interval_is_the_published_one() -> None:
    low, high = wilson_interval([1.0] * 8 + [0.0] * 2)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval([0.0] * 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval([1.0] * 10)[1] == 1.0


def test_the_bootstrap_interval_is_deterministic_and_holds_the_mean() -> None:
    values = [number / 50 for number in range(51)]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    low, high = bootstrap_interval(values)
    assert 0.38 < low < 0.45 < 0.55 < high < 0.62
    assert bootstrap_interval([0.5] * 7) == (0.5, 0.5)


def test_scores_keep_the_order_that_was_asked_for() -> None:
    rows = [score_row("a", "a"), score_row("b", "c")]
    assert [score.metric for score in scores(rows, ["f1", "exact_match"])] == ["f1", "exact_match"]
    assert [score.value for score in scores(rows)] == [0.5, 0.0, 0.5]


def _run(
    trained: lab.MemoryContext, folder: Path, rows: list[object], *, spec: lab.JobSpec, adapter: bool = True
) -> lab.MemoryContext:
    data = lab.write_rows(folder / "test.jsonl", rows)
    resolved = lab.resolved(Path(trained.order.resolved_spec.base.path), data=[("evaluate", data)], spec=spec)
    fields = {"adapter_dir": str(trained.output)} if adapter else {}
    return lab.MemoryContext(lab.order(resolved, folder / "work", **fields))


def test_half_right_answers_score_a_half(trained: lab.MemoryContext, tmp_path: Path, rank: TrlRank) -> None:
    rows = [lab.chat(*pair) for pair in lab.PAIRS] + [
        lab.chat(question, "falsch") for question, _ in lab.PAIRS
    ]
    context = _run(trained, tmp_path, rows, spec=lab.evaluate_spec())
    output = rank.run(context)
    assert output.kind == ArtifactKind.ARTIFACT_KIND_EVALUATION
    found = {score.metric: score for score in output.scores}
    assert set(found) == {"exact_match", "json_valid", "f1"}
    assert (found["exact_match"].value, found["exact_match"].rows) == (0.5, 8)
    assert (found["exact_match"].low, found["exact_match"].high) == pytest.approx((0.2152, 0.7848), abs=1e-4)
    assert found["f1"].value == 0.5
    assert found["json_valid"].value == 0.0

    answers = [json.loads(line) for line in (context.output / "answers.jsonl").read_text().splitlines()]
    assert [answer["line"] for answer in answers] == list(range(1, 9))
    assert [answer["given"] for answer in answers] == [answer for _, answer in lab.PAIRS] * 2
    assert [answer["exact_match"] for answer in answers] == [1.0] * 4 + [0.0] * 4
    table = json.loads((context.output / "scores.json").read_text())["scores"]
    assert table[0] == {
        "metric": "exact_match",
        "value": 0.5,
        "low": pytest.approx(0.2152, abs=1e-4),
        "high": pytest.approx(0.7848, abs=1e-4),
        "rows": 8,
    }
    assert [(metrics.step, metrics.total_steps) for metrics in context.told] == [(3, 8), (6, 8), (8, 8)]


def test_an_answer_does_not_depend_on_what_shares_its_batch(
    trained: lab.MemoryContext, tmp_path: Path, rank: TrlRank
) -> None:
    rows: list[object] = [
        lab.chat(question, "x") for question in ("red", "a much longer question?", "blue", "y")
    ]
    given = []
    for size in (1, 4):
        (tmp_path / str(size)).mkdir()
        context = _run(trained, tmp_path / str(size), rows, spec=lab.evaluate_spec(batch_size=size))
        rank.run(context)
        answers = (context.output / "answers.jsonl").read_text().splitlines()
        given.append([json.loads(line)["given"] for line in answers])
    assert given[0] == given[1]


def test_examples_stand_between_the_system_turn_and_the_question(
    trained: lab.MemoryContext, tmp_path: Path
) -> None:
    from tunefleet_core.evaluation.run import _questions
    from tunefleet_core.rendering import Renderer, load_tokenizer

    row = {"messages": [
        {"role": "system", "content": "S"}, {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
    ]}  # fmt: skip
    shots = lab.write_rows(tmp_path / "shots.jsonl", [lab.chat(f"q{n}", f"a{n}") for n in range(5)])
    context = _run(trained, tmp_path, [row], spec=lab.evaluate_spec(example_count=2))
    spec = context.order.resolved_spec
    spec.data.add(role="examples", path=str(shots))
    renderer = Renderer(load_tokenizer(spec.base), spec.chat_template)
    (question,) = _questions(spec, renderer)
    chat = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"},
        {"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "Q"},
    ]  # fmt: skip
    assert question.prompt == renderer.prompt(chat)
    assert question.right == "A"
    spec.spec.evaluate.ClearField("example_count")
    assert renderer.text(_questions(spec, renderer)[0].prompt).count("<|im_start|>user") == 4


def test_a_stop_ends_an_evaluation_within_an_answer(
    trained: lab.MemoryContext, tmp_path: Path, rank: TrlRank
) -> None:
    context = _run(trained, tmp_path, [lab.chat(*pair) for pair in lab.PAIRS], spec=lab.evaluate_spec())
    asked = []

    def stop(_: lab.MemoryContext) -> int:
        asked.append(1)
        return StopMode.STOP_MODE_CANCEL if len(asked) > 2 else StopMode.STOP_MODE_UNSPECIFIED

    context._stop_when = stop
    with pytest.raises(RunStopped):
        rank.run(context)
    assert len(asked) == 3
    assert not context.told
    assert not context.output.exists()


def test_an_unknown_metric_is_refused(trained: lab.MemoryContext, tmp_path: Path, rank: TrlRank) -> None:
    context = _run(trained, tmp_path, [lab.chat("a", "b")], spec=lab.evaluate_spec(metrics=["accuracy"]))
    with pytest.raises(TunefleetError, match="'accuracy' is no metric"):
        rank.run(context)


def test_a_wrong_row_is_named(trained: lab.MemoryContext, tmp_path: Path, rank: TrlRank) -> None:
    rows: list[object] = [lab.chat("a", "b"), {"messages": [{"role": "user", "content": 3}]}]
    context = _run(trained, tmp_path, rows, spec=lab.evaluate_spec())
    with pytest.raises(TunefleetError, match=r"test\.jsonl:2: messages\[0\]\.content"):
        rank.run(context)


def test_an_adapter_of_another_base_is_refused(
    trained: lab.MemoryContext, tmp_path: Path, rank: TrlRank
) -> None:
    context = _run(trained, tmp_path, [lab.chat("a", "b")], spec=lab.evaluate_spec())
    empty = tmp_path / "empty"
    empty.mkdir()
    context.order.adapter_dir = str(empty)
    with pytest.raises(TunefleetError, match="has no adapter_model"):
        rank.run(context)
