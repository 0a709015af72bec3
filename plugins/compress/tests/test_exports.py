"""Every format, through a real rank process: written, loaded again, held to the numbers before."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import compress_lab as lab
import pytest
from safetensors import safe_open

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.rank_pb2 import RankCommand, RankEnd, RankStop
from tunefleet.backend.v1.run_pb2 import RunOrder, StopMode
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_compress.recipes import FORMATS
from tunefleet_core.catalog import read_base
from tunefleet_core.catalog.matrix import proof_record
from tunefleet_core.errors import Reason, TunefleetError, error_from_status
from tunefleet_core.parity import read_contract
from tunefleet_core.worker.rank_process import RankProcess

ENTRY = "tunefleet_compress.rank:CompressRank"
EVERY = [(form, variant) for form, variants in FORMATS.items() for variant in variants]
SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED


class Told:
    """What a rank process told: its end, and the notices before."""

    def __init__(self) -> None:
        self.end: RankEnd | None = None
        self.notices: list[str] = []
        self.steps: list[int] = []

    @property
    def error(self) -> TunefleetError:
        assert self.end is not None
        return error_from_status(self.end.error)


async def _run(order: RunOrder, *, kill_at: int = -1, stop_at: int = -1, entry: str = ENTRY) -> Told:
    told = Told()
    rank = await RankProcess.spawn(entry, warm=False)
    try:
        await rank.send(RankCommand(run=order))
        async with asyncio.timeout(300):
            while (report := await rank.next_report()) is not None:
                event = report.event
                if event.HasField("notice"):
                    told.notices.append(event.notice.text)
                if event.HasField("metrics"):
                    told.steps.append(event.metrics.step)
                    if event.metrics.step == kill_at:
                        os.kill(rank.process.pid, signal.SIGKILL)
                    if event.metrics.step == stop_at:
                        stop = RankStop(mode=StopMode.STOP_MODE_CANCEL)
                        await rank.send(RankCommand(stop=stop))
                if report.HasField("end"):
                    told.end = report.end
                    break
        await rank.wait()
    finally:
        await rank.end(grace_seconds=5)
    return told


def export(order: RunOrder, *, kill_at: int = -1, stop_at: int = -1, entry: str = ENTRY) -> Told:
    return asyncio.run(_run(order, kill_at=kill_at, stop_at=stop_at, entry=entry))


def _dtypes(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118


def _leftovers(work: Path) -> list[str]:
    return [path.name for path in work.rglob("*") if path.name in ("output", "model.safetensors")]


def test_gptq_is_written_checked_and_told(whole: Path, tmp_path: Path) -> None:
    told = export(lab.order(whole, tmp_path / "work", "gptq"))
    assert told.end is not None
    assert told.end.outcome == SUCCEEDED, told.error
    assert told.end.output.kind == ArtifactKind.ARTIFACT_KIND_MODEL
    assert told.steps == [0, 1, 2, 3]
    assert any("nats away from the weights before" in text for text in told.notices)
    assert any("calibrated with 8 training rows" in text for text in told.notices)
    output = tmp_path / "work" / "output"
    assert "I32" in _dtypes(output)
    config = json.loads((output / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in output.iterdir())
    record, before = read_contract(output), read_contract(whole)
    assert record.numbers != before.numbers, "an engine is held to the rounded model's own numbers"
    assert [item.base for item in record.numbers] == [item.base for item in before.numbers]
    assert record.template == before.template


@pytest.mark.slow
@pytest.mark.parametrize(("form", "variant"), EVERY, ids=[f"{form}-{variant}" for form, variant in EVERY])
def test_every_format_keeps_the_numbers_of_qwen3(
    form: str, variant: str, whole: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    told = export(lab.order(whole, tmp_path / "work", form, variant=variant))
    assert told.end is not None
    assert told.end.outcome == SUCCEEDED, told.error
    stored = sum(path.stat().st_size for path in (tmp_path / "work" / "output").glob("*.safetensors"))
    assert stored < 0.6 * (whole / "model.safetensors").stat().st_size, "it is smaller"
    test = f"plugins/compress/tests/{request.node.nodeid.rpartition('/')[2]}"
    proof_record.record("written", f"compress/{form}/{variant}", test)


@pytest.mark.slow
@pytest.mark.parametrize("form", list(FORMATS))
def test_every_format_keeps_the_numbers_of_llama_with_smaller_groups(form: str, tmp_path: Path) -> None:
    whole = lab.trained_model(tmp_path / "trained", model_type="llama", hidden=64)
    told = export(lab.order(whole, tmp_path / "work", form))
    assert told.end is not None
    assert told.end.outcome == SUCCEEDED, told.error
    if form in ("awq", "gptq"):
        assert any("in groups of 64" in text for text in told.notices)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "dtype"), [("fp8", "F8_E4M3"), ("mxfp4", "U8"), ("nvfp4", "U8")])
def test_weights_are_stored_in_the_format(form: str, dtype: str, whole: Path, tmp_path: Path) -> None:
    export(lab.order(whole, tmp_path / "work", form))
    assert dtype in _dtypes(tmp_path / "work" / "output")


def test_rows_that_changed_do_not_calibrate(whole: Path, tmp_path: Path) -> None:
    order = lab.order(whole, tmp_path / "work", "gptq")
    other = tmp_path / "rows.jsonl"
    other.write_text((whole.parent / "rows.jsonl").read_text().replace("rot", "red"))
    order.resolved_spec.data[0].path = str(other)
    error = export(order).error
    assert error.reason is Reason.DATA_INVALID
    assert "not what the model was trained on" in error.message
    assert not _leftovers(tmp_path / "work")


def test_rows_that_are_gone_are_named(whole: Path, tmp_path: Path) -> None:
    order = lab.order(whole, tmp_path / "work", "awq")
    order.resolved_spec.data[0].path = str(tmp_path / "gone.jsonl")
    error = export(order).error
    assert error.reason is Reason.DATA_INVALID
    assert "gone.jsonl" in error.message


def test_calibration_takes_the_rows_of_the_file_evenly(whole: Path) -> None:
    from transformers import AutoTokenizer

    from tunefleet_compress.calibration import calibration_ids

    order = lab.order(whole, whole, "gptq", rows=4)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    texts = [tokenizer.decode(ids) for ids in calibration_ids(order.resolved_spec, whole)]
    lines = (whole.parent / "rows.jsonl").read_text().splitlines()
    answers = [json.loads(lines[number])["messages"][1]["content"] for number in (0, 4, 8, 12)]
    assert len(texts) == 4
    assert all(answer in text for answer, text in zip(answers, texts, strict=True))


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"text": "plain words"}, "plain words"),
        ({"prompt": "red", "completion": "rot"}, "rot"),
        ({"prompt": "red", "chosen": "rot", "rejected": "blau"}, "rot"),
        ({"prompt": "red", "completion": "rot", "label": True}, "rot"),
        ({"prompt": "red", "answer": "rot"}, "red"),
    ],
)
def test_calibration_takes_the_rows_of_every_method(
    whole: Path, tmp_path: Path, row: dict[str, str], wanted: str
) -> None:
    from transformers import AutoTokenizer

    from tunefleet_compress.calibration import calibration_ids

    order = lab.order(whole, whole, "gptq", rows=4)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (data,) = (data for data in order.resolved_spec.data if data.role == "train")
    data.path, data.sha256 = str(path), ""
    (ids,) = calibration_ids(order.resolved_spec, whole)
    text = AutoTokenizer.from_pretrained(whole).decode(ids)
    assert (text == wanted) if "text" in row else (wanted in text and text != wanted)


@pytest.mark.parametrize(
    ("form", "variant", "said"),
    [("gptq", "3bit", "no variant of gptq"), ("nf4", "", "does not write 'nf4'")],
)
def test_what_it_does_not_write_is_refused(
    form: str, variant: str, said: str, whole: Path, tmp_path: Path
) -> None:
    error = export(lab.order(whole, tmp_path / "work", form, variant=variant)).error
    assert error.reason is Reason.FIELD_INVALID
    assert said in error.message


@pytest.mark.slow
def test_layers_that_no_group_divides_are_refused_by_name(tmp_path: Path) -> None:
    whole = lab.trained_model(tmp_path / "trained", model_type="llama", hidden=48)
    error = export(lab.order(whole, tmp_path / "work", "mxfp4")).error
    assert error.reason is Reason.CAPABILITY_UNSUPPORTED
    assert "has 48" in error.message
    assert not _leftovers(tmp_path / "work")


def test_a_kill_leaves_nothing_that_counts(whole: Path, tmp_path: Path) -> None:
    told = export(lab.order(whole, tmp_path / "work", "gptq"), kill_at=1)
    assert told.end is None
    assert not (tmp_path / "work" / "output").exists()
    again = export(lab.order(whole, tmp_path / "work", "gptq"))
    assert again.end is not None
    assert again.end.outcome == SUCCEEDED, "what the dead one left does not stand in the way"


def test_a_cancel_ends_it_while_the_library_works(whole: Path, tmp_path: Path) -> None:
    told = export(lab.order(whole, tmp_path / "work", "gptq"), stop_at=1)
    assert told.end is not None
    assert told.end.outcome == AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
    assert told.steps == [0, 1]
    assert not _leftovers(tmp_path / "work")


@pytest.mark.parametrize(
    "damage",
    ["scale", pytest.param("swapped", marks=pytest.mark.slow), pytest.param("cut", marks=pytest.mark.slow)],
)
def test_what_is_damaged_on_the_disk_is_not_kept(
    damage: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, search)))
    monkeypatch.setenv("TUNEFLEET_TEST_DAMAGE", damage)
    told = export(lab.order(whole, tmp_path / "work", "gptq"), entry="damaging_rank:DamagingRank")
    assert told.end is not None
    assert told.end.outcome == AttemptOutcome.ATTEMPT_OUTCOME_FAILED
    if damage != "cut":
        assert told.error.reason is Reason.NUMBERS_MISMATCH
        assert float(told.error.metadata["cost"]) > FORMATS["gptq"]["4bit"].tolerance
    assert not _leftovers(tmp_path / "work")


def test_a_written_folder_is_read_as_a_base(whole: Path, tmp_path: Path) -> None:
    export(lab.order(whole, tmp_path / "work", "fp8"))
    facts = read_base(tmp_path / "work" / "output")
    assert "quantization_config" in json.loads(facts.config_json)
    assert facts.tokenizer_digest == read_base(whole).tokenizer_digest
