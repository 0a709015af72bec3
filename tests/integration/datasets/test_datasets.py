"""Datasets over real processes: refused by line and field, named in jobs, harmless to delete."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from chaos_fleet import echo_job
from data_fleet import DataFleet

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.artifacts import sha256_of_file
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.spec import parse_job_text


def _rows(path: Path, count: int = 3) -> Path:
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    path.write_text("\n".join(json.dumps({**row}) for _ in range(count)) + "\n")
    return path


async def test_a_dataset_is_sent_once_and_found_again(fleet: DataFleet, tmp_path: Path) -> None:
    file = _rows(tmp_path / "rows.jsonl", 7)
    async with fleet.client() as client:
        made = await client.datasets.create("tickets", file, labels={"team": "office"})
        assert (made.rows, made.format, made.creator) == (7, "messages", "admin")
        assert made.sha256 == sha256_of_file(file)
        assert made.size_bytes == file.stat().st_size
        assert await client.datasets.get("tickets") == made
        again = await client.datasets.create("tickets", file, labels={"team": "office"})
        assert again == made, "the same rows under the same name are the same dataset"
        other = await client.datasets.create("others", _rows(tmp_path / "other.jsonl", 2))
        assert [item.name for item in await client.datasets.list()] == [other.name, made.name]
        with pytest.raises(TunefleetError) as raised:
            await client.datasets.create("tickets", _rows(tmp_path / "changed.jsonl", 8))
        assert raised.value.reason is Reason.DATASET_EXISTS


async def test_a_wrong_row_is_named_by_line_and_field(fleet: DataFleet, tmp_path: Path) -> None:
    file = _rows(tmp_path / "rows.jsonl", 3)
    with file.open("a") as stream:
        stream.write('{"messages": [{"role": "usr", "content": "hi"}]}\n')
    async with fleet.client() as client:
        with pytest.raises(TunefleetError) as raised:
            await client.datasets.create("tickets", file)
        error = raised.value
        assert error.reason is Reason.DATA_INVALID
        assert error.message.startswith("tickets:4: messages[0].role: ")
        assert error.metadata["line"] == "4"
        assert str(fleet.state) not in error.message + error.hint, "a path of the store helps nobody"
        assert await client.datasets.list() == ()


@pytest.mark.slow  # starts everything twice
async def test_the_same_request_makes_one_dataset(fleet: DataFleet, tmp_path: Path) -> None:
    file = _rows(tmp_path / "rows.jsonl")
    request_id = str(uuid.uuid4())
    async with fleet.client() as client:
        made = await client.datasets.create("tickets", file, request_id=request_id)
        await fleet.kill("coordinator")
        await fleet.kill("blobs")
        await fleet.start_coordinator()
        assert await client.datasets.create("tickets", file, request_id=request_id) == made
        with pytest.raises(TunefleetError) as raised:
            await client.datasets.create("another", file, request_id=request_id)
        assert raised.value.reason is Reason.REQUEST_ID_REUSED


async def test_rows_that_were_not_sent_are_asked_for(fleet: DataFleet, tmp_path: Path) -> None:
    async with fleet.client() as client:
        sha256 = await client.transfers.upload(_rows(tmp_path / "rows.jsonl"))
        blob = fleet.state / "artifacts" / "sha256" / sha256[:2] / sha256
        blob.unlink()
        client.transfers.upload = _already(sha256)  # type: ignore[method-assign]  # it was pruned since
        with pytest.raises(TunefleetError) as raised:
            await client.datasets.create("tickets", tmp_path / "rows.jsonl")
        assert raised.value.reason is Reason.BLOB_NOT_FOUND


def _already(sha256: str):
    async def upload(*_: object, **__: object) -> str:
        return sha256

    return upload


async def test_a_job_runs_on_a_dataset_that_was_deleted_after_submit(
    fleet: DataFleet, tmp_path: Path
) -> None:
    file = _rows(tmp_path / "rows.jsonl", 5)
    await fleet.start_trainer()
    async with fleet.client() as client:
        dataset = await client.datasets.create("tickets", file)
        spec = _job_on("datasets/tickets")
        plan = await client.jobs.plan(spec)
        assert plan.resolved_spec.data[0].sha256 == dataset.sha256
        job = await client.jobs.create(spec)
        await client.datasets.delete("tickets")
        with pytest.raises(TunefleetError) as raised:
            await client.jobs.create(spec)
        assert raised.value.reason is Reason.DATASET_NOT_FOUND
        done, _ = await fleet.finish(client, job.name)
    assert done.state == JobState.JOB_STATE_SUCCEEDED
    assert done.spec.train.data.train[0].source == "datasets/tickets"
    resolved = done.resolved_spec.data
    assert [(item.sha256, item.rows) for item in resolved] == [(dataset.sha256, 5)] * 2
    assert Path(resolved[0].path).read_bytes() == file.read_bytes()


@pytest.mark.slow
async def test_a_dataset_that_is_not_there_is_refused_wherever_it_is_named(fleet: DataFleet) -> None:
    await fleet.start_trainer()
    evaluation = JobSpec(name="score", backend="echo")
    evaluation.evaluate.model.model = "nothing"
    evaluation.evaluate.data = "datasets/nowhere"
    test_set = echo_job()
    test_set.train.data.test = "datasets/nowhere"
    async with fleet.client() as client:
        for spec in (_job_on("datasets/nowhere"), evaluation, test_set):
            with pytest.raises(TunefleetError) as raised:
                await client.jobs.plan(spec)
            assert raised.value.reason is Reason.DATASET_NOT_FOUND, spec


async def test_checking_rows_needs_a_trainer_that_reads_them(fleet: DataFleet, tmp_path: Path) -> None:
    async with fleet.client() as client:
        await client.datasets.create("tickets", _rows(tmp_path / "rows.jsonl"))
        with pytest.raises(TunefleetError) as absent:
            await client.datasets.check("datasets/nowhere", model="nothing")
        assert absent.value.reason is Reason.DATASET_NOT_FOUND
        with pytest.raises(TunefleetError) as raised:
            await client.datasets.check("datasets/tickets", model="nothing")
        assert raised.value.reason is Reason.UNAVAILABLE
        for wrong in ({"model": ""}, {"model": "nothing", "loss_on": "half"}):
            with pytest.raises(TunefleetError) as field:
                await client.datasets.check("datasets/tickets", **wrong)
            assert field.value.reason is Reason.FIELD_INVALID


def test_a_job_file_names_a_dataset_and_not_a_file_beside_it(tmp_path: Path) -> None:
    text = """
name: tickets
train:
  base: {model: /models/base}
  data: {train: [{source: datasets/tickets}, {source: datasets/rows.jsonl}], validation: ./datasets/held}
  method: {sft: {}}
"""
    data = parse_job_text(text, base_dir=tmp_path, origin="job.yaml").train.data
    assert [source.source for source in data.train] == [
        "datasets/tickets",
        str(tmp_path / "datasets" / "rows.jsonl"),
    ]
    assert data.validation == str(tmp_path / "datasets" / "held")


def _job_on(source: str) -> JobSpec:
    spec = echo_job(steps=4)
    spec.train.data.train[0].source = source
    spec.train.data.validation = source
    return spec
