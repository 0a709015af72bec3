"""`--set` changes single fields and is judged by the rules of job files."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunefleet_cli.model_reference import model_reference
from tunefleet_cli.overrides import read_job, read_settings
from tunefleet_core.errors import Reason, TunefleetError

JOB = """\
name: tickets
train:
  base: {model: Qwen/Qwen3-0.6B}
  data: {train: [{source: a.jsonl}]}
  method: {sft: {}}
  adapter: {lora: {}}
"""


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return str(path)


def test_numbers_texts_and_lists_are_set(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = read_job(
        job,
        [
            "train.optim.learning_rate=2e-4",
            "train.optim.epochs=1",
            "train.method.sft.packing=true",
            "train.adapter.lora.targets=[q_proj, v_proj]",
            "train.data.train[0].source=b.jsonl",
            "backend=echo",
        ],
    )
    assert spec.train.optim.learning_rate == pytest.approx(2e-4)
    assert spec.train.optim.epochs == 1
    assert spec.train.method.sft.packing is True
    assert list(spec.train.adapter.lora.targets) == ["q_proj", "v_proj"]
    assert spec.train.data.train[0].source == str(tmp_path / "b.jsonl")
    assert spec.backend == "echo"
    assert spec.train.base.model == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("epochs", "not path=value"),
        ("=3", "not path=value"),
        ("train.optim.epochs=-1", "greater than 0"),
        ("train.data.train.0.source=a", "'train' is a list"),
        ("train.optim.learning_rte=1", "learning_rate"),
        ("train.data.train[4].source=x", "no element 4"),
        ("name.first=x", "has no fields"),
        ("train.data.train=[{source", "is no list and no mapping: expected ',' or '}'"),
        ("labels={? [a] : b}", "is no list and no mapping"),
        ("train.data.train=" + "[" * 3000, "is no list and no mapping"),
        ("labels[" + "9" * 5000 + "]=a", "is not YAML"),
        ("train.optim.learning_rate=NaN", "finite"),
    ],
)
def test_a_wrong_override_is_refused(job: str, override: str, what: str) -> None:
    with pytest.raises(TunefleetError, match=what):
        read_job(job, [override])


def test_a_date_is_text_as_in_a_job_file(job: str) -> None:
    assert read_job(job, ["labels={day: 2026-12-01}"]).labels["day"] == "2026-12-01"


_WORDS = st.sampled_from(
    [
        "train",
        "data",
        "labels",
        "name",
        "optim.",
        "=",
        "[",
        "]",
        "{",
        "}",
        ":",
        " ",
        "0",
        "1e999",
        "NaN",
        "&a",
        "*a",
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(override=st.lists(_WORDS | st.text(max_size=3), max_size=10).map("".join))
def test_any_override_is_set_or_refused(job: str, override: str) -> None:
    for read in (lambda: read_job(job, [override]), lambda: read_settings([override])):
        try:
            is_fine = isinstance(read(), Message)
        except TunefleetError as error:
            is_fine = error.reason is Reason.FIELD_INVALID and bool(error.message)
        assert is_fine


def test_a_model_is_a_name_a_folder_or_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert model_reference("tickets-ab12") == "models/tickets-ab12"
    assert model_reference("models/tickets") == "models/tickets"
    assert model_reference("projects/default/models/tickets") == "models/tickets"
    assert model_reference("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert model_reference("runs/base") == str(tmp_path / "runs/base")
    assert model_reference("./base") == str(tmp_path / "base")
