"""The real command in a process against a real server: output, exit codes, signals."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sample_names
import samples
from cli_process import Ended, in_a_terminal, run, start

from tunefleet.job.v1.event_pb2 import JobEvent, LogLines, Metrics
from tunefleet.job.v1.job_service_pb2 import CreateJobRequest, PlanJobRequest
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_client.testing import FakeCoordinator

RUNNING = "tickets-to-json-ab12"
FULL = f"{sample_names.JOBS}/{RUNNING}"
HEAVY = ("torch", "transformers", "mlx", "peft", "trl", "numpy", "grpc", "rich", "google.protobuf", "aiohttp")
JOB = """\
name: tickets
train:
  base: {model: Qwen/Qwen3-0.6B}
  data: {train: [{source: a.jsonl}]}
  method: {sft: {}}
  adapter: {lora: {}}
"""


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    (tmp_path / "job.yaml").write_text(JOB)
    return str(tmp_path / "job.yaml")


def step(number: int, total: int = 60) -> JobEvent:
    return JobEvent(attempt=1, metrics=Metrics(step=number, total_steps=total, loss=1 / number))


async def finish(fleet: FakeCoordinator, state: JobState.ValueType) -> None:
    for number in range(1, 61):
        await fleet.append(FULL, step(number))
    await fleet.append(FULL, JobEvent(attempt=1, log_lines=LogLines(lines=["saved", "bye"])))
    await fleet.move(FULL, state)


@pytest.mark.parametrize("arguments", [["--help"], ["jobs", "--help"], ["train", "--help"], ["up", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from tunefleet_cli.main import cli\n"
        f"cli.main({arguments!r}, standalone_mode=False, prog_name='tunefleet')\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Usage: tunefleet" in done.stdout
    assert done.stdout.rstrip().endswith("LOADED []")


def test_the_client_and_every_command_stay_free_of_the_heavy_stack() -> None:
    program = (
        "import importlib, pkgutil, sys, tunefleet_cli, tunefleet_client\n"
        "for package in (tunefleet_cli, tunefleet_client):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not found.name.endswith('__main__'):\n"
        "            importlib.import_module(found.name)\n"
        "heavy = ('torch', 'transformers', 'mlx', 'peft', 'trl', 'numpy', 'aiohttp', 'sqlalchemy')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["jobs", "list"], 0, ""),
        (["jobs", "get", "nope"], 3, "JOB_NOT_FOUND"),
        (["models", "get", "nope"], 3, "MODEL_NOT_FOUND"),
        (["deployments", "delete", "nope"], 3, "DEPLOYMENT_NOT_FOUND"),
        (["jobs", "get", "models/x"], 1, "FIELD_INVALID"),
        (["jobs", "frob"], 2, "USAGE"),
        (["jobs", "list", "--state", "ASLEEP"], 2, "USAGE"),
        (["train", "/does/not/exist.yaml"], 1, "FIELD_INVALID"),
        (["chat", "tickets", "-m", "hi"], 4, "UNAVAILABLE"),
    ],
)
async def test_exit_codes_tell_what_happened(
    fleet: FakeCoordinator, arguments: list[str], code: int, reason: str
) -> None:
    ended = await run(*arguments)
    assert (ended.code, f"({reason})" in ended.stderr) == (code, bool(reason))
    assert ("Next step:" in ended.stderr) == bool(reason)
    assert "Traceback" not in ended.stderr
    assert bool(ended.stdout) == (code == 0)


async def test_without_a_coordinator_the_code_is_4(tmp_path: Path) -> None:
    ended = await run("jobs", "list")
    assert ended.code == 4
    assert "tunefleet up" in ended.stderr
    async with FakeCoordinator() as fake:
        fake.write_state(tmp_path / "state")
    ended = await run("jobs", "list", "--json")
    assert ended.code == 4
    assert json.loads(ended.stderr)["data"]["reason"] == "UNAVAILABLE"


async def test_a_traceback_is_shown_only_with_debug(fleet: FakeCoordinator) -> None:
    ended = await run("--debug", "jobs", "get", "nope")
    assert ended.code == 3
    assert "Traceback" in ended.stderr


async def test_train_prints_the_name_for_pipes(fleet: FakeCoordinator, job_file: str) -> None:
    ended = await run("train", job_file, "--set", "train.optim.epochs=1")
    assert (ended.code, ended.stdout) == (0, "tickets-ab12\n")
    assert "Next step:  tunefleet jobs watch tickets-ab12" in ended.stderr
    request = next(item for item in fleet.requests if isinstance(item, CreateJobRequest))
    assert request.spec.train.optim.epochs == 1
    assert Path(request.spec.train.data.train[0].source).is_absolute()


async def test_plan_starts_nothing(fleet: FakeCoordinator, job_file: str) -> None:
    ended = await run("plan", job_file)
    assert ended.code == 0
    assert "train.optim.learning_rate  2e-4" in ended.stdout
    assert "Nothing was started." in ended.stderr
    assert [type(item) for item in fleet.requests] == [PlanJobRequest]


@pytest.mark.parametrize(
    ("state", "code", "last"),
    [
        (JobState.JOB_STATE_SUCCEEDED, 0, "succeeded"),
        (JobState.JOB_STATE_FAILED, 1, "failed"),
        (JobState.JOB_STATE_CANCELLED, 1, "was cancelled"),
    ],
)
async def test_following_a_job_ends_with_its_fate(
    fleet: FakeCoordinator, state: JobState.ValueType, code: int, last: str
) -> None:
    await finish(fleet, state)
    ended = await run("jobs", "watch", RUNNING)
    assert ended.code == code
    assert f"Job {RUNNING} {last}" in ended.stderr
    steps = [line for line in ended.stdout.splitlines() if line.startswith("step ")]
    assert len(steps) == 60, "a pipe gets a line for every event"
    assert steps[-1].startswith("step 60/60 100 %  loss 0.0167")
    assert "log saved" in ended.stdout


async def test_a_follower_says_that_the_coordinator_is_away_and_when_it_came_back(
    fleet: FakeCoordinator,
) -> None:
    process = await start("jobs", "watch", RUNNING)
    assert process.stdout is not None
    assert process.stderr is not None
    await fleet.append(FULL, step(1))
    async with asyncio.timeout(60):
        await process.stdout.readline()
        await fleet.stop()
        assert b"does not answer; the run goes on" in await process.stderr.readline()
        await fleet.start()
        assert b"is back after" in await process.stderr.readline()
        await fleet.append(FULL, step(2))
        await fleet.move(FULL, JobState.JOB_STATE_SUCCEEDED)
        stdout, _ = await process.communicate()
    assert process.returncode == 0
    assert stdout.decode().startswith("step 2/60")


async def test_a_followed_stream_in_json_is_every_change_as_a_line(fleet: FakeCoordinator) -> None:
    fleet.cuts, fleet.cut_after = 10, 3
    await finish(fleet, JobState.JOB_STATE_SUCCEEDED)
    ended = await run("jobs", "watch", RUNNING, "--json")
    documents = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.code == 0
    assert ended.stderr == ""
    sequences = [
        int(document["data"]["sequence"])
        for document in documents
        if document["kind"] == "tunefleet.job.v1.JobEvent"
    ]
    assert sequences == list(range(1, 63))
    assert documents[-1]["kind"] == "tunefleet.job.v1.Job"
    assert documents[-1]["data"]["state"] == "JOB_STATE_SUCCEEDED"


async def test_logs_are_the_lines_and_nothing_else(fleet: FakeCoordinator) -> None:
    await fleet.append(FULL, JobEvent(log_lines=LogLines(lines=["one", "[bold]two[/bold]"])), step(1))
    ended = await run("jobs", "logs", RUNNING)
    assert (ended.code, ended.stdout) == (0, "one\n[bold]two[/bold]\n")


async def test_a_job_that_printed_nothing_says_so_beside_the_data(fleet: FakeCoordinator) -> None:
    await fleet.append(FULL, step(1))
    ended = await run("jobs", "logs", RUNNING)
    assert (ended.code, ended.stdout) == (0, "")
    assert "It printed nothing." in ended.stderr


async def test_interrupting_a_follower_detaches_and_leaves_the_job_alone(fleet: FakeCoordinator) -> None:
    process = await start("jobs", "watch", RUNNING)
    assert process.stdout is not None
    await fleet.append(FULL, step(1))
    async with asyncio.timeout(60):
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = await process.communicate()
    assert process.returncode == 130
    assert f"tunefleet jobs watch {RUNNING}" in stderr.decode()
    assert fleet.jobs[FULL].state == JobState.JOB_STATE_RUNNING


async def test_a_terminal_gets_the_live_view(fleet: FakeCoordinator) -> None:
    await finish(fleet, JobState.JOB_STATE_SUCCEEDED)
    shown, code = await asyncio.to_thread(in_a_terminal, "jobs", "watch", RUNNING)
    assert code == 0
    assert "60/60  100 %" in shown
    assert "loss " in shown
    assert "\x1b[?25l" in shown, "the cursor is hidden while it is drawn"
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "and shown again at the end"


async def test_deploy_waits_until_it_takes_traffic(fleet: FakeCoordinator) -> None:
    ended = await run("deploy", "tickets-to-json-9c3e", "--name", "new", "--wait")
    assert (ended.code, ended.stdout) == (0, "new\n")
    assert "new takes traffic." in ended.stderr
    assert "tunefleet chat new" in ended.stderr


async def test_a_deployment_that_failed_is_an_error(fleet: FakeCoordinator) -> None:
    fleet.deployments["projects/default/deployments/broken"].error.message = "Wrong scale."
    ended = await run("deploy", "broken", "--wait")
    assert ended.code == 1
    assert "Wrong scale." in ended.stderr


async def test_eval_follows_and_prints_scores(fleet: FakeCoordinator, tmp_path: Path) -> None:
    data = tmp_path / "test.jsonl"
    data.write_text("{}\n")
    name = f"{sample_names.JOBS}/eval-tickets-ab12"
    done = samples.jobs()[2]
    done.name = name
    fleet.jobs[name] = done
    ended = await run("eval", "tickets", str(data), "--examples", str(data), "--example-count", "2")
    assert ended.code == 0
    assert "exact_match  0.870  0.790 – 0.920" in ended.stdout
    request = next(item for item in fleet.requests if isinstance(item, CreateJobRequest))
    assert request.spec.evaluate.model.model == "models/tickets"
    assert request.spec.evaluate.examples == str(data)
    assert request.spec.evaluate.example_count == 2


async def test_export_names_the_format_and_says_how_to_watch(fleet: FakeCoordinator) -> None:
    ended = await run("export", "tickets", "--format", "gguf", "--variant", "q4_k_m", "--id", "small")
    assert (ended.code, ended.stdout) == (0, "small\n")
    assert "tunefleet jobs watch small" in ended.stderr
    spec = next(item for item in fleet.requests if isinstance(item, CreateJobRequest)).spec
    assert spec.name == "tickets-gguf"
    assert spec.export.model.model == "models/tickets"
    assert (spec.export.quantize.format, spec.export.quantize.variant) == ("gguf", "q4_k_m")


async def test_export_without_a_format_merges(fleet: FakeCoordinator) -> None:
    ended = await run("models", "export", "models/tickets", "--dtype", "bfloat16")
    assert ended.code == 0
    spec = next(item for item in fleet.requests if isinstance(item, CreateJobRequest)).spec
    assert spec.export.merge.dtype == "bfloat16"


async def test_options_of_a_format_need_one(fleet: FakeCoordinator) -> None:
    ended = await run("export", "tickets", "--variant", "8bit")
    assert ended.code == 2
    assert "--variant needs --format" in ended.stderr


async def test_models_say_the_format_they_are_in(fleet: FakeCoordinator) -> None:
    model = fleet.models["projects/default/models/tickets-to-json-9c3e"]
    model.kind, model.format = "model", "gptq"
    assert "model (gptq)" in (await run("models", "list")).stdout
    assert "gptq" in (await run("models", "get", "tickets-to-json-9c3e")).stdout


async def test_cancel_says_how_to_see_the_end(fleet: FakeCoordinator) -> None:
    ended = await run("jobs", "cancel", RUNNING)
    assert (ended.code, ended.stdout) == (0, f"{RUNNING}\n")
    assert f"tunefleet jobs watch {RUNNING}" in ended.stderr
    assert fleet.jobs[FULL].state == JobState.JOB_STATE_STOPPING


async def test_a_reader_that_leaves_is_no_error(fleet: FakeCoordinator) -> None:
    for number in range(3000):
        name = f"{sample_names.JOBS}/j{number}"
        fleet.jobs[name] = samples.jobs()[0]
    process = await start("jobs", "list", "--limit", "3000")
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # pyright: ignore - there is no public way to hang up
    assert process.stderr is not None
    async with asyncio.timeout(60):
        assert (await process.stderr.read()).decode() == ""
        assert await process.wait() == 0


async def test_doctor_names_the_fix_for_each_finding(fleet: FakeCoordinator, tmp_path: Path) -> None:
    (tmp_path / "state" / "admin.token").chmod(0o644)
    ended: Ended = await run("doctor")
    assert ended.code == 1
    assert f"fix: chmod 600 {tmp_path / 'state' / 'admin.token'}" in ended.stdout
    (tmp_path / "state" / "admin.token").chmod(0o600)
    ended = await run("doctor", "--json")
    assert ended.code == 0
    checks = {item["check"]: item for item in json.loads(ended.stdout)["data"]["checks"]}
    assert all(item["fix"] for item in checks.values() if item["status"] in ("WARNING", "FAILED"))
    assert checks["backends"]["fix"] == "tunefleet plugins install mlx"


async def test_doctor_without_anything_says_what_to_start() -> None:
    ended = await run("doctor")
    assert ended.code == 1
    assert "FAILED  state folder" in ended.stdout
    assert "SKIPPED services" in ended.stdout
    assert "fix: tunefleet up" in ended.stdout


async def test_version_is_json_too() -> None:
    ended = await run("version", "--json")
    assert json.loads(ended.stdout)["data"]["contract"] == "1"
