"""Every diagnosis of the doctor, each by breaking the thing it is about."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import catalog_samples
import pytest
import sample_names
from cli_process import run

from tunefleet.fleet.v1.fleet_pb2 import ServiceKind, ServiceState
from tunefleet.job.v1.event_pb2 import JobEvent, LogLines, Sample
from tunefleet_cli.checks import check_all, find_place, host
from tunefleet_cli.findings import Finding
from tunefleet_cli.redaction import Redaction
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core import __version__
from tunefleet_core.environments import Environment, EnvironmentIndex

SECRET = "tf_plantedSECRET0123456789"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
async def sound(fleet: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> FakeCoordinator:
    """A fleet in which the doctor finds nothing that is about the fleet."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "TUNEFLEET_ENVS"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    fleet.fleet.version = __version__
    fleet.fleet.disk_free_bytes, fleet.fleet.disk_watermark_bytes = 60 << 30, 5 << 30
    for service in fleet.services:
        service.state = ServiceState.SERVICE_STATE_ATTACHED
        service.last_heard_time.GetCurrentTime()
    fleet.plugins = [plugin for plugin in fleet.plugins if plugin.status == "ACTIVE"]
    return fleet


async def finding(state: Path, check: str) -> Finding:
    found = [item for item in await check_all(find_place()) if item.check == check]
    assert len(found) == 1, f"{check} is told {len(found)} times"
    return found[0]


async def test_a_sound_fleet_has_no_failure(sound: FakeCoordinator, state: Path) -> None:
    failed = [item for item in await check_all(find_place()) if item.status == "FAILED"]
    assert failed == []


async def test_a_missing_state_folder(state: Path) -> None:
    found = await finding(state, "state folder")
    assert (found.status, found.fix) == ("FAILED", "tunefleet up")
    assert (await finding(state, "services")).status == "SKIPPED"


def test_a_state_folder_that_cannot_be_written() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    try:
        with _as_nobody():
            found = host.check_state_folder(folder)
    finally:
        folder.rmdir()
    assert found.status == "FAILED"
    assert "Permission denied" in found.text


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may write everywhere: be somebody else for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_state_folder_that_others_can_read(sound: FakeCoordinator, state: Path) -> None:
    state.chmod(0o755)
    found = await finding(state, "state folder")
    assert (found.status, found.fix) == ("WARNING", f"chmod 700 {state}")


async def test_a_held_state_folder_whose_coordinator_is_gone(sound: FakeCoordinator, state: Path) -> None:
    await sound.stop()
    program = (
        "import sys, pathlib\n"
        "from tunefleet_services.local.lock import hold_state_folder\n"
        "with hold_state_folder(pathlib.Path(sys.argv[-1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(  # noqa: ASYNC220 - it only holds a lock, nothing waits for it
        [sys.executable, "-c", program, "tunefleet up", str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        found = await finding(state, "coordinator")
        assert (await finding(state, "up")).status == "OK"
    finally:
        holder.communicate()
    assert found.status == "FAILED"
    assert f"Process {holder.pid} holds the state folder" in found.text
    assert f"kill {holder.pid}" in found.fix
    assert (await finding(state, "up")).status == "WARNING", "a lock that is left behind holds nothing"


@pytest.mark.parametrize("how", ["missing", "open", "empty"])
async def test_a_token_that_is_missing_open_or_empty(sound: FakeCoordinator, state: Path, how: str) -> None:
    token = state / "admin.token"
    match how:
        case "missing":
            token.unlink()
        case "open":
            token.chmod(0o644)
        case _:
            token.write_text("")
    found = await finding(state, "token")
    assert found.status == "FAILED"
    assert found.fix


async def test_a_token_of_another_fleet(sound: FakeCoordinator, state: Path) -> None:
    (state / "admin.token").write_text("wrong\n")
    found = await finding(state, "coordinator")
    assert (found.status, "oken" in found.text) == ("FAILED", True)
    assert found.fix


async def test_a_coordinator_that_is_down(sound: FakeCoordinator, state: Path) -> None:
    await sound.stop()
    found = await finding(state, "coordinator")
    assert found.status == "FAILED"
    assert "does not answer" in found.text
    assert "tunefleet" in found.fix


async def test_a_port_that_another_program_took(sound: FakeCoordinator, state: Path) -> None:
    await sound.stop()
    with socket.create_server(("127.0.0.1", sound.port)):
        found = await finding(state, "coordinator")
    assert found.status == "FAILED"
    assert f"port {sound.port} is taken" in found.text
    assert f"sport = :{sound.port}" in found.fix


@pytest.mark.parametrize("which", ["coordinator", "trainer"])
async def test_another_version(sound: FakeCoordinator, state: Path, which: str) -> None:
    if which == "coordinator":
        sound.fleet.version = "9.9.9"
    else:
        sound.services[0].version = "9.9.9"
    found = await finding(state, "versions")
    assert found.status == "WARNING"
    assert "9.9.9" in found.text


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_clock_that_is_wrong(sound: FakeCoordinator, state: Path, seconds: int) -> None:
    for service in sound.services:
        service.last_heard_time.seconds += seconds
    found = await finding(state, "clock")
    assert found.status == "WARNING"
    assert ("ahead of" if seconds < 0 else "behind") in found.text


async def test_a_lost_service(sound: FakeCoordinator, state: Path) -> None:
    sound.services[1].state = ServiceState.SERVICE_STATE_LOST
    found = await finding(state, "services")
    assert (found.status, "laptop-server is lost" in found.text) == ("WARNING", True)
    assert "tunefleet fleet remove laptop-server" in found.fix


async def test_a_fleet_without_a_trainer(sound: FakeCoordinator, state: Path) -> None:
    sound.services[0].state = ServiceState.SERVICE_STATE_LOST
    found = await finding(state, "services")
    assert (found.status, "no job can run" in found.text) == ("FAILED", True)


async def test_a_trainer_that_is_draining(sound: FakeCoordinator, state: Path) -> None:
    sound.services[0].is_draining = True
    found = await finding(state, "services")
    assert (found.status, found.fix) == ("FAILED", "tunefleet fleet undrain laptop-trainer")
    sound.services[0].is_draining, sound.services[1].is_draining = False, True
    found = await finding(state, "services")
    assert (found.status, found.fix) == ("WARNING", "tunefleet fleet undrain laptop-server")


async def test_a_backend_that_failed(sound: FakeCoordinator, state: Path) -> None:
    sound.plugins = catalog_samples.plugins()
    found = await finding(state, "backends")
    assert (found.status, found.fix) == ("WARNING", "tunefleet plugins install mlx")
    sound.plugins = [plugin for plugin in catalog_samples.plugins() if plugin.name == "mlx"]
    assert (await finding(state, "backends")).status == "FAILED"
    sound.plugins = []
    found = await finding(state, "backends")
    assert (found.status, found.fix) == ("FAILED", "tunefleet plugins install trl")


async def test_a_fleet_without_a_server_or_a_gateway(sound: FakeCoordinator, state: Path) -> None:
    found = await finding(state, "services")
    assert (found.status, "1 trainer, 1 server, 0 gateways attached" in found.text) == ("WARNING", True)
    gateway = sound.add_gateway()
    gateway.last_heard_time.GetCurrentTime()
    assert (await finding(state, "services")).status == "OK"
    for service in sound.services:
        service.kind = ServiceKind.SERVICE_KIND_TRAINER
    found = await finding(state, "services")
    assert (found.status, "0 servers, 0 gateways" in found.text) == ("WARNING", True)
    sound.services.clear()
    found = await finding(state, "services")
    assert (found.status, "no job can run" in found.text) == ("FAILED", True)
    assert (await finding(state, "clock")).status == "SKIPPED"


@pytest.mark.parametrize("how", ["gone", "broken", "index"])
async def test_an_environment_that_is_broken(
    sound: FakeCoordinator, state: Path, tmp_path: Path, how: str
) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    if how == "broken":
        python.write_text("#!/bin/sh\necho 'ImportError: libssl is gone' >&2; exit 1\n")
        python.chmod(0o755)
    EnvironmentIndex(state).add("trl", Environment(digest="d" * 32, python=str(python)))
    if how == "index":
        (state / "envs" / "index.json").write_text("{")
    found = await finding(state, "environments")
    assert found.status == "FAILED"
    assert "tunefleet plugins install" in found.fix
    assert {"gone": "No such file", "broken": "libssl is gone", "index": "index"}[how] in found.text


def test_an_environment_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNEFLEET_ENVS", raising=False)
    monkeypatch.setattr(host, "_ENVIRONMENT_SECONDS", 0.3)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    EnvironmentIndex(tmp_path).add("trl", Environment(digest="d" * 32, python=str(python)))
    (found,) = host.check_environments(tmp_path)
    assert (found.status, "does not answer" in found.text) == ("FAILED", True)
    assert "tunefleet plugins install trl" in found.fix


def test_a_disk_that_is_low(tmp_path: Path) -> None:
    assert host.check_disk(tmp_path, little_bytes=1 << 62, none_bytes=0).status == "WARNING"
    found = host.check_disk(tmp_path, little_bytes=1 << 62, none_bytes=1 << 62)
    assert (found.status, "tunefleet prune" in found.fix) == ("FAILED", True)
    assert host.check_disk(tmp_path / "not" / "there", little_bytes=0).status == "OK"


async def test_a_coordinator_below_its_watermark(sound: FakeCoordinator, state: Path) -> None:
    sound.fleet.disk_free_bytes = 1 << 30
    found = await finding(state, "fleet disk")
    assert (found.status, found.fix) == ("FAILED", "tunefleet prune")


async def test_a_gateway_that_is_dead(sound: FakeCoordinator, state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    sound.write_state(state, gateway=f"http://127.0.0.1:{port}")
    found = await finding(state, "gateway")
    assert (found.status, "does not answer" in found.text) == ("FAILED", True)
    assert "gateway.log" in found.fix
    # The file that its certificate is checked by has gone.
    sound.write_state(state, gateway=f"https://127.0.0.1:{port}")
    endpoints = json.loads((state / "endpoints.json").read_text())
    (state / "endpoints.json").write_text(json.dumps(endpoints | {"authority": "authority/trust.pem"}))
    found = await finding(state, "gateway")
    assert (found.status, "trust.pem" in found.text) == ("FAILED", True)


async def test_no_gateway_at_all(sound: FakeCoordinator, state: Path) -> None:
    found = await finding(state, "gateway")
    assert (found.status, found.fix) == ("WARNING", "tunefleet up")


async def test_a_proxy_for_loopback(
    sound: FakeCoordinator, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await finding(state, "proxy")).status == "OK"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    found = await finding(state, "proxy")
    assert (found.status, "NO_PROXY" in found.fix) == ("WARNING", True)
    assert (await finding(state, "coordinator")).status == "OK", "our own calls leave the proxy aside"
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    assert (await finding(state, "proxy")).status == "OK"


async def test_the_bundle_holds_what_helps_and_no_secret(
    sound: FakeCoordinator, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "admin.token").write_text(f"{sound.token}\n")
    (state / "service.token").write_text("plain-words-no-form\n")
    (state / "logs").mkdir()
    monkeypatch.setenv("HF_TOKEN", "an-hf-secret")
    monkeypatch.setenv("https_proxy", "http://ada:hunter22@proxy:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    planted = (
        f"connect with {SECRET} failed\nauthorization: Bearer abcdefghijkl\nkey plain-words-no-form used\n"
        f'HF_TOKEN an-hf-secret\n{{"password": "hunter2222", "max_tokens": 1234567}}\nthe disk is full\n'
    )
    (state / "logs" / "trainer.log").write_text(planted)
    job = f"{sample_names.JOBS}/tickets-to-json-ab12"
    await sound.append(
        job,
        JobEvent(log_lines=LogLines(lines=[f"token={SECRET}", "step 7"])),
        JobEvent(sample=Sample(prompt="a private prompt")),
    )
    work = state / "services" / "trainer" / "runs" / "u-1"
    work.mkdir(parents=True)
    (work / "rows.log").write_text("a private row")
    file = tmp_path / "bundle.tar.gz"
    ended = await run("doctor", "--bundle", str(file))
    assert ended.code == 0, ended.stderr
    with tarfile.open(file) as tar:
        parts = {
            member.name.removeprefix("tunefleet/"): content.read().decode()
            for member in tar.getmembers()
            if (content := tar.extractfile(member)) is not None
        }
    everything = "\n".join(parts.values())
    for secret in (SECRET, "abcdefghijkl", "plain-words-no-form", "an-hf-secret", "hunter2", "a private"):
        assert secret not in everything, secret
    assert "the disk is full" in parts["logs/trainer.log"]
    assert "1234567" in parts["logs/trainer.log"], "a number of tokens is no token"
    assert "step 7" in parts["events/tickets-to-json-ab12.jsonl"]
    assert {item["check"] for item in json.loads(parts["doctor.json"])} >= {"disk", "gateway", "versions"}
    assert __version__ in parts["fleet.json"]
    assert any(line.startswith("grpcio==") for line in json.loads(parts["versions.json"])["distributions"])
    assert file.stat().st_mode & 0o777 == 0o600
    ended = await run("doctor", "--bundle", str(file))
    assert (ended.code, "File exists" in ended.stderr) == (1, True)


async def test_the_bundle_is_written_when_nothing_runs(tmp_path: Path) -> None:
    ended = await run("doctor", "--bundle", str(tmp_path / "b.tgz"))
    assert ended.code == 1
    with tarfile.open(tmp_path / "b.tgz") as tar:
        assert "tunefleet/fleet.txt" in tar.getnames()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ('{"api_key":"abcdefgh"}', '{"api_key":"[redacted]"}'),
        ("https://ada:secret@host/x", "https://[redacted]@host/x"),
        ("hf_abcdefghijklmn", "[redacted]"),
        ("trainer --join tfjoin1_AbCdEfGh-ij", "trainer --join [redacted]"),
        ("pasted tflogin1_AbCdEfGh_ij here", "pasted [redacted] here"),
        ("called with tfs_AbCdEfGhij by", "called with [redacted] by"),
        ('"secret_of": ["tfj_AbCdEfGhij"]', '"secret_of": ["[redacted]"]'),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "[redacted]"),
        ("TUNEFLEET_TOKEN=abcdefgh x", "TUNEFLEET_TOKEN=[redacted] x"),
        ("tokenizer_digest: abcdefgh", "tokenizer_digest: abcdefgh"),
        ("tokens_per_second=12345.5", "tokens_per_second=12345.5"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, cleaned: str, tmp_path: Path) -> None:
    assert Redaction(tmp_path, {}).clean(text) == cleaned
