"""A fleet as a unit of a real systemd: the user's manager, in namespaces of its own.

`python FILE ROOT` starts the unit that `deploy/` ships, stops and crashes it below a job, and prints one JSON
document of what it saw. The PID namespace is its own: whatever is left at the end is left by the fleet.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tunefleet.job.v1.event_pb2 import AttemptOutcome, JobEvent
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client import connect

UNITS = Path(__file__).parents[3] / "deploy" / "systemd"
STEPS = 80
_UNIT = "tunefleet"
_RUNTIME = Path("/run/user/0")
_LIMIT_SECONDS = 90.0


def prepare(root: Path) -> None:
    """Lay out a home with the shipped units, and a drop-in that says where this fleet lies, as users do."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    Path("/run/systemd/system").mkdir(parents=True)  # by this systemd knows a machine that it runs on
    _RUNTIME.mkdir(parents=True)
    os.environ.update(HOME=str(root), XDG_RUNTIME_DIR=str(_RUNTIME))
    units = root / ".config" / "systemd" / "user"
    settings = units / f"{_UNIT}.service.d" / "override.conf"
    settings.parent.mkdir(parents=True)
    for unit in UNITS.glob("*.service"):
        (units / unit.name).write_text(unit.read_text())
    settings.write_text(
        f"[Service]\nExecStart=\nExecStart={sys.executable} -m tunefleet_cli up\n"
        f"StandardOutput=append:{_said(root)}\n"
    )
    variables = root / ".config" / "tunefleet" / "environment"
    variables.parent.mkdir()
    search = f"PYTHONPATH={path}\n" if (path := os.environ.get("PYTHONPATH")) else ""
    variables.write_text(f"TUNEFLEET_STATE={root}/state\nTUNEFLEET_ENVS={root}/envs\n{search}")
    _said(root).touch()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.1)


def ctl(*words: str) -> str:
    """Ask the manager."""
    done = subprocess.run(
        ["systemctl", "--user", *words], capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS
    )
    if done.returncode:
        raise RuntimeError(f"systemctl {words}: {done.stderr}")
    return done.stdout.strip()


def shown(name: str) -> str:
    """Return a property of the unit."""
    return ctl("show", _UNIT, "--property", name, "--value")


def start(root: Path) -> None:
    """Start the unit, and wait until the fleet is there."""
    _said(root).write_text("")
    ctl("start", _UNIT)
    wait_for(lambda: "Fleet ready" in _said(root).read_text(), "the fleet is ready")


def crash(root: Path) -> None:
    """Kill the supervisor alone, and wait until systemd has started it again."""
    _said(root).write_text("")
    os.kill(int(shown("MainPID")), signal.SIGKILL)
    wait_for(lambda: "Fleet ready" in _said(root).read_text(), "the fleet is ready again")


def slow_job() -> JobSpec:
    """Return a job that saves nothing by itself."""
    spec = JobSpec(name="slow", backend="echo", max_attempts=3)
    spec.train.base.model = "nothing"
    spec.train.data.train.add(source="nothing.jsonl")
    spec.train.method.sft.SetInParent()
    spec.train.adapter.lora.SetInParent()
    spec.train.optim.max_steps = STEPS
    spec.train.checkpoint.every_steps = 1000
    spec.backend_options.update({"step_seconds": 0.1})
    return spec


async def begin(root: Path) -> Job:
    """Submit the job, and wait until it has done some steps."""
    async with connect(state_folder=root / "state") as client:
        job = await client.jobs.create(slow_job())
        async for change in client.jobs.watch(job.name):
            if change.event is not None and change.event.metrics.step > 5:
                break
    return job


async def end(root: Path, name: str) -> tuple[str, list[JobEvent]]:
    """Follow the job to its end; return its state and its events."""
    async with connect(state_folder=root / "state") as client:
        changes = [change async for change in client.jobs.watch(name)]
        events = [change.event for change in changes if change.event is not None]
        return JobState.Name((await client.jobs.get(name)).state), events


def left() -> list[str]:
    """Return the command lines of what is left of the fleet."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue  # it ended meanwhile
        if any(word.startswith("tunefleet_") for word in words):
            found.append(" ".join(words))
    return found


def scenario(root: Path) -> dict[str, object]:
    """Stop the unit below a job, start it, crash it, follow the job to its end; return what was seen."""
    start(root)
    job = asyncio.run(begin(root))
    ctl("stop", _UNIT)
    stopped = {"result": shown("Result"), "left": left()}
    start(root)
    crash(root)
    starts = int(shown("NRestarts"))
    state, events = asyncio.run(end(root, job.name))
    ctl("stop", _UNIT)
    ends = [event.attempt_ended.outcome for event in events if event.HasField("attempt_ended")]
    return {
        "stopped": stopped,
        "started_again": starts,
        "state": state,
        "outcomes": [AttemptOutcome.Name(outcome) for outcome in ends],
        "steps": [event.metrics.step for event in events if event.HasField("metrics")],
        "left": left(),
    }


def main(root: Path) -> None:
    """Go through it below a manager, and print what was seen."""
    prepare(root)
    with (root / "systemd.log").open("w") as log:
        manager = subprocess.Popen(["/lib/systemd/systemd", "--user"], stderr=log)
    try:
        wait_for((_RUNTIME / "systemd" / "private").exists, "systemd answers")
        print(json.dumps(scenario(root)))
    finally:
        manager.terminate()
        manager.wait(30)


def _said(root: Path) -> Path:
    return root / "up.log"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
