"""A job that asks for trackers, through a whole fleet: all lies with the trainer, and the job says where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from local_fleet import LocalFleet, missing_backend

_MISSING = missing_backend("tracking")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING),
]

_JOB = """
name: followed
train:
  base: {model: any/base}
  data: {train: [{source: rows.jsonl}]}
  adapter: {lora: {}}
  optim: {max_steps: 5}
backend: echo
"""
_ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


async def test_a_run_is_kept_by_its_attempt_and_the_job_says_where(fleet: LocalFleet, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(_ROW) + "\n")
    job = tmp_path / "job.yaml"
    job.write_text(_JOB + "tracking:\n- {name: tensorboard}\n- {name: wandb, project: support}\n")
    await fleet.done("train", job, "--id", "followed", "--follow")
    folder = fleet.state / "services" / "trainer" / "tracking"
    assert list((folder / "tensorboard" / "tunefleet" / "followed-1").glob("events.*"))
    assert list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    told = (await fleet.done("jobs", "watch", "followed")).stdout
    assert f"tensorboard --logdir {folder}" in told
    assert "wandb sync" in told


async def test_a_tracker_that_nobody_has_is_refused_at_submit(fleet: LocalFleet, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(_ROW) + "\n")
    job = tmp_path / "job.yaml"
    job.write_text(_JOB + "tracking:\n- {name: comet}\n")
    refused = await fleet.cli("train", job)
    assert refused.code == 1
    assert "tracking[0].name" in refused.stderr
    assert "there are mlflow, tensorboard, trackio, wandb" in refused.stderr
