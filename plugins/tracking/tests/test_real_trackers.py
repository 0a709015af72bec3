"""Each tracker with its real library, without a server: what it kept is read back by the library itself.

They are run as a contract host runs them, each in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunefleet.backend.v1.run_pb2 import RunOrder, TrackerProgram
from tunefleet.job.v1.event_pb2 import AttemptOutcome, Metrics, Notice
from tunefleet.job.v1.spec_pb2 import BaseModel, JobSpec, Optim, Tracker, TrainSpec
from tunefleet_core.plugins import find_backend
from tunefleet_core.tracking import RunTrackers

STEPS = [1, 2, 3, 2, 3, 4]
"""With a rollback to step 1."""
_SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
_CANCELLED = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED


def loss_at(place: int) -> float:
    return 2.0**-place


def order(folder: Path, tracker: Tracker, *, attempt: int = 2) -> RunOrder:
    made = RunOrder(run=f"u-{attempt}", job="projects/default/jobs/tickets-7c9a", attempt=attempt)
    train = TrainSpec(base=BaseModel(model="org/base"), optim=Optim(learning_rate=2e-4))
    made.resolved_spec.spec.CopyFrom(JobSpec(name="tickets", train=train))
    entry = find_backend("tracking").tracker_entry
    program = TrackerProgram(python=sys.executable, entry=entry, tracker=tracker, folder=str(folder))
    made.trackers.append(program)
    return made


async def follow(made: RunOrder, outcome: AttemptOutcome.ValueType = _SUCCEEDED) -> list[Notice]:
    told: list[Notice] = []
    trackers = RunTrackers(made, told.append)
    async with asyncio.TaskGroup() as group:
        group.create_task(trackers.run())
        for place, step in enumerate(STEPS):
            trackers.take(
                Metrics(step=step, loss=loss_at(place), tokens=10 * step, extra={"rewards/margins": 0.5})
            )
        trackers.end(outcome, within_seconds=60.0)
    return told


def run(made: RunOrder, outcome: AttemptOutcome.ValueType = _SUCCEEDED) -> str:
    """Follow a run, and return where a person is told to find it."""
    (notice,) = asyncio.run(follow(made, outcome))
    assert notice.severity == "info", notice.text
    return notice.text


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = run(order(tmp_path, Tracker(name="tensorboard", project="support")))
    folder = tmp_path / "tensorboard" / "support"
    assert f"--logdir {folder}" in told
    found = EventAccumulator(str(folder / "tickets-7c9a-2"), purge_orphaned_data=False)
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [
        (step, loss_at(place)) for place, step in enumerate(STEPS)
    ]
    assert [event.value for event in found.Scalars("rewards/margins")] == [0.5] * len(STEPS)
    assert b"train.optim.learning_rate" in found.Tensors("spec")[0].tensor_proto.string_val[0]


def test_mlflow_reads_what_was_written_by_two_attempts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(order(tmp_path, Tracker(name="mlflow"))))
            group.create_task(follow(order(tmp_path, Tracker(name="mlflow"), attempt=3), _CANCELLED))

    asyncio.run(both())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("tunefleet")
    assert experiment is not None
    runs = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    assert {name: found.info.status for name, found in runs.items()} == {
        "tickets-7c9a-2": "FINISHED",
        "tickets-7c9a-3": "KILLED",
    }
    first = runs["tickets-7c9a-2"]
    assert first.data.params["train.optim.learning_rate"] == "0.0002"
    assert first.data.tags["tunefleet.attempt"] == "2"
    history = client.get_metric_history(first.info.run_id, "loss")
    assert sorted((item.step, item.value) for item in history) == sorted(
        (step, loss_at(place)) for place, step in enumerate(STEPS)
    )


def test_trackio_reads_what_was_written(tmp_path: Path) -> None:
    told = run(order(tmp_path, Tracker(name="trackio", project="support")))
    assert "trackio show --project support" in told
    run_of = "'support', 'tickets-7c9a-2'"
    script = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as store; "
        f"print(json.dumps([store.get_run_config({run_of}), store.get_logs({run_of})]))"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    answer = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    config, logs = json.loads(answer.stdout.splitlines()[-1])
    assert config["train.base.model"] == "org/base"
    assert [(line["step"], line["loss"]) for line in logs] == [
        (step, loss_at(place)) for place, step in enumerate(STEPS)
    ]


def test_wandb_keeps_a_run_offline_that_can_be_uploaded(tmp_path: Path) -> None:
    told = run(order(tmp_path, Tracker(name="wandb", project="support", entity="my-team")), _CANCELLED)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert f"wandb sync {folder}" in told
    (file,) = folder.glob("run-*.wandb")
    records = list(wandb_records(file))
    begun = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (begun.display_name, begun.project, begun.run_group) == (
        "tickets-7c9a-2",
        "support",
        "tickets-7c9a",
    )
    steps = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(line["step"], line["loss"]) for line in steps] == [
        (step, loss_at(place)) for place, step in enumerate(STEPS)
    ]
    (end,) = (record.exit for record in records if record.WhichOneof("record_type") == "exit")
    assert end.exit_code == 1  # cancelled


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield the records of a file of W&B: LevelDB's log format behind a header of 7 bytes.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.parametrize(
    "tracker",
    [
        Tracker(name="mlflow", url="http://127.0.0.1:9", api_key="MINE"),
        Tracker(name="wandb", url="http://127.0.0.1:9", api_key="MINE"),
    ],
    ids=lambda tracker: tracker.name,
)
def test_a_server_that_is_not_there_costs_a_notice_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: Tracker
) -> None:
    key = "k" * 40
    monkeypatch.setenv("TUNEFLEET_SECRET_MINE", key)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    told = asyncio.run(follow(order(tmp_path, tracker)))
    assert [notice.severity for notice in told] == ["warning"]
    assert told[0].text.startswith(f"The run is not tracked by {tracker.name}: ")
    assert key not in told[0].text
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert kept == []
