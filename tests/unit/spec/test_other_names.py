"""A job file of another trainer is told, field by field, where each of them stands here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import TunefleetError
from tunefleet_core.spec import parse_job_text
from tunefleet_core.spec.descriptors import fields_of, message_type
from tunefleet_core.spec.nearest import OTHER_NAMES

AXOLOTL = """
base_model: NousResearch/Llama-3.2-1B
load_in_4bit: true
datasets:
  - path: rows.jsonl
    type: alpaca
adapter: lora
lora_r: 16
sequence_len: 2048
num_epochs: 1
learning_rate: 0.0002
"""


@pytest.mark.parametrize("path", sorted(set(OTHER_NAMES.values())))
def test_every_place_that_is_named_is_one(path: str) -> None:
    message = JobSpec.DESCRIPTOR
    *most, last = path.split(".")
    for name in most:
        field = next(item for item in fields_of(message) if item.name == name)
        inner = message_type(field)
        assert inner is not None
        message = inner
    assert last in {field.name for field in fields_of(message)}


def test_no_field_of_ours_is_called_otherwise() -> None:
    ours = {field.name for field in fields_of(JobSpec.DESCRIPTOR)}
    assert not ours & set(OTHER_NAMES)


def test_a_job_file_of_another_trainer_is_told_where_its_fields_stand() -> None:
    with pytest.raises(TunefleetError) as caught:
        parse_job_text(AXOLOTL, base_dir=Path.cwd(), origin="axolotl.yaml")
    for name, path in {
        "base_model": "train.base.model",
        "load_in_4bit": "train.quantization",
        "datasets": "train.data.train",
        "adapter": "train.adapter",
        "lora_r": "train.adapter.lora.rank",
        "sequence_len": "train.max_length",
        "num_epochs": "train.optim.epochs",
        "learning_rate": "train.optim.learning_rate",
    }.items():
        assert f"{name}: is not a field; did you mean '{path}'?" in caught.value.message
