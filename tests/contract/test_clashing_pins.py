"""Two backends that need different releases of one package run side by side on one host."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "chaos"))

from chaos_fleet import ChaosFleet, echo_job

from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.environments import install
from tunefleet_core.plugins.starter import write_starter
from tunefleet_services.machine import CPU_DEVICES

PINS = {"older": "3.9", "newer": "3.10"}
"""Plugin to the release of `idna` that it pins: pure Python, and nothing of tunefleet needs it there."""


class FleetOfTwo(ChaosFleet):
    """A fleet whose processor counts as two devices, so that two jobs run at a time."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, CPU_DEVICES: "2"}


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow  # makes two environments
@pytest.mark.timeout(400)
async def test_backends_with_clashing_pins_train_at_the_same_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNEFLEET_ENVS", raising=False)
    fleet = FleetOfTwo(root, lease_seconds=10.0)
    reports = [
        await asyncio.to_thread(install, str(_plugin(name, version, root)), fleet.state, lambda said: None)
        for name, version in PINS.items()
    ]
    assert len({report.environment.digest for report in reports}) == 2
    try:
        await fleet.start_coordinator()
        await fleet.start_trainer()
        async with fleet.client() as client:
            jobs = [await client.jobs.create(_job(name), job_id=name) for name in PINS]
            ended = await asyncio.gather(*(fleet.finish(client, job.name) for job in jobs))
    finally:
        await fleet.close()
    for (name, version), (job, events) in zip(PINS.items(), ended, strict=True):
        assert job.state == JobState.JOB_STATE_SUCCEEDED, job
        said = [event.notice.text for event in events if event.HasField("notice")]
        assert f"idna {version}" in said, name
    (begun, done), (other_begun, other_done) = (_steps(events) for _, events in ended)
    assert begun < other_done, "they ran at the same time"
    assert other_begun < done


def _plugin(name: str, version: str, root: Path) -> Path:
    """Write a starter that pins a release and tells which one its process has."""
    source = root / name
    write_starter(name, source, "train")
    project = source / "pyproject.toml"
    text = project.read_text()
    pinned = text.replace('dependencies = ["tunefleet"]', f'dependencies = ["tunefleet", "idna=={version}"]')
    assert pinned != text
    project.write_text(pinned)
    rank = source / f"tunefleet_{name}" / "rank.py"
    text = rank.read_text()
    line = "        context.enter(RunPhase.RUN_PHASE_LOADING)\n"
    assert text.count(line) == 1
    told = '        context.notice(f"idna {idna.__version__}", severity="info")\n'
    rank.write_text(
        text.replace(line, line + told).replace("import json\n", "import json\n\nimport idna\n", 1)
    )
    return source


def _job(name: str) -> JobSpec:
    spec = echo_job(steps=40, every_steps=40)
    spec.backend = name
    spec.backend_options.update({"step_seconds": 0.2})
    return spec


def _steps(events: list[JobEvent]) -> tuple[float, float]:
    """Return when the first and the last step were told, in seconds."""
    times = [event.create_time.ToMilliseconds() / 1000 for event in events if event.HasField("metrics")]
    return times[0], times[-1]
