"""A job cut small: which rows, which bounds, and what is said of rows with mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_cli.mini import MOST_STEP_SECONDS, cut_job
from tunefleet_core.data import read_rows
from tunefleet_core.errors import Reason, TunefleetError


def rows(path: Path, count: int, *, wrong: int = 0) -> str:
    """Write so many rows; the one with number `wrong` has a role that nobody knows."""
    lines: list[str] = []
    for number in range(1, count + 1):
        role = "robot" if number == wrong else "assistant"
        chat = [{"role": "user", "content": f"q{number}"}, {"role": role, "content": f"a{number}"}]
        lines.append(json.dumps({"messages": chat}))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def job(*sources: str, validation: str = "") -> JobSpec:
    spec = JobSpec(name="tickets")
    spec.train.base.model = "/base"
    for source in sources:
        spec.train.data.train.add(source=source)
    spec.train.data.validation = validation
    spec.train.optim.batch_size = 8
    spec.train.optim.epochs = 3
    spec.train.optim.max_steps = 5000
    return spec


def test_the_first_hundred_rows_over_all_sources_are_taken(tmp_path: Path) -> None:
    spec = job(rows(tmp_path / "a.jsonl", 500), rows(tmp_path / "b.jsonl", 30))
    mini = cut_job(spec, tmp_path / "mini")
    counts = [len(list(read_rows(source.source))) for source in mini.spec.train.data.train]
    assert counts == [50, 30]
    assert mini.rows == 80
    assert spec.train.data.train[0].source == str(tmp_path / "a.jsonl"), "the job itself is left alone"


def test_one_epoch_and_a_minute_at_most(tmp_path: Path) -> None:
    mini = cut_job(job(rows(tmp_path / "a.jsonl", 500)), tmp_path / "mini").spec
    optim = mini.train.optim
    assert (optim.epochs, optim.max_seconds) == (1.0, MOST_STEP_SECONDS)
    assert not optim.HasField("max_steps")
    assert mini.name == "tickets-mini"


def test_a_dataset_of_the_fleet_is_bounded_in_steps(tmp_path: Path) -> None:
    mini = cut_job(job("datasets/tickets"), tmp_path / "mini").spec
    assert mini.train.data.train[0].source == "datasets/tickets"
    assert mini.train.optim.max_steps == 13  # 100 rows in batches of 8


def test_the_question_is_held_out(tmp_path: Path) -> None:
    spec = job(rows(tmp_path / "a.jsonl", 5), validation=rows(tmp_path / "v.jsonl", 500))
    mini = cut_job(spec, tmp_path / "mini")
    assert len(list(read_rows(mini.spec.train.data.validation))) == 20
    assert [message["content"] for message in mini.question] == ["q1"]
    assert mini.right == "a1"


def test_mistakes_far_down_show_at_once_in_every_file(tmp_path: Path) -> None:
    spec = job(
        rows(tmp_path / "a.jsonl", 500, wrong=433),
        validation=rows(tmp_path / "v.jsonl", 200, wrong=150),
    )
    with pytest.raises(TunefleetError) as caught:
        cut_job(spec, tmp_path / "mini")
    assert caught.value.reason is Reason.DATA_INVALID
    assert "a.jsonl:433: messages[1].role" in caught.value.message
    assert "v.jsonl:150: messages[1].role" in caught.value.message
    assert not (tmp_path / "mini").exists()


def test_only_training_can_be_tried_small(tmp_path: Path) -> None:
    spec = JobSpec(name="score")
    spec.evaluate.model.model = "models/x"
    with pytest.raises(TunefleetError, match="training jobs"):
        cut_job(spec, tmp_path / "mini")


def test_rows_of_other_methods_are_not_cut(tmp_path: Path) -> None:
    spec = job(rows(tmp_path / "a.jsonl", 3))
    spec.train.method.dpo.SetInParent()
    with pytest.raises(TunefleetError, match=r"train\.method\.dpo: cannot be tried with --mini"):
        cut_job(spec, tmp_path / "mini")
