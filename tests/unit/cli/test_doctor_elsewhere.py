"""The doctor on a machine whose fleet is elsewhere: a login, an address, certificates of members."""

from __future__ import annotations

import json
import socketserver
import tarfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cli_process import run

from tunefleet.fleet.v1.fleet_pb2 import ServiceKind, ServiceState
from tunefleet_cli.checks import check_all, find_place
from tunefleet_cli.checks.members import check_members
from tunefleet_cli.findings import Finding
from tunefleet_client.login import keep_login, login_file
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core import __version__
from tunefleet_core.invitations import Invitation, InvitationKind
from tunefleet_services.joining import Membership

_DAY = 86_400.0


@pytest.fixture
async def far(fleet: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCoordinator:
    """A sound fleet that this machine has logged in at; it has no state folder of its own."""
    for name in ("TUNEFLEET_STATE", "TUNEFLEET_ENVS", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "none"))
    keep_login(Invitation(kind=InvitationKind.LOGIN, address=fleet.address, secret=fleet.token))
    fleet.fleet.version = __version__
    fleet.plugins = [plugin for plugin in fleet.plugins if plugin.status == "ACTIVE"]
    for service in fleet.services:
        service.state = ServiceState.SERVICE_STATE_ATTACHED
        service.last_heard_time.GetCurrentTime()
    return fleet


@contextmanager
def gateway_that_answers(status: int) -> Generator[str]:
    """Serve nothing but a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def attach_gateway(fleet: FakeCoordinator, url: str) -> None:
    gateway = fleet.add_gateway()
    gateway.kind = ServiceKind.SERVICE_KIND_GATEWAY
    gateway.version = __version__
    gateway.last_heard_time.GetCurrentTime()
    gateway.endpoints["openai"] = f"{url}/v1"


async def findings() -> dict[str, Finding]:
    return {item.check: item for item in await check_all(find_place())}


async def test_a_machine_that_is_logged_in_needs_no_fleet_of_its_own(far: FakeCoordinator) -> None:
    with gateway_that_answers(200) as url:
        attach_gateway(far, url)
        found = await findings()
        ended = await run("doctor")
    assert [item for item in found.values() if item.status in ("FAILED", "WARNING")] == []
    assert str(login_file()) in found["login"].text
    assert (found["state folder"].status, found["up"].status) == ("SKIPPED", "SKIPPED")
    assert found["gateway"].text == f"answers at {url}"
    assert (ended.code, "Everything that is needed works" in ended.stderr) == (0, True)


@pytest.mark.parametrize("how", ["open", "spoilt"])
async def test_a_login_that_cannot_be_used(far: FakeCoordinator, how: str) -> None:
    if how == "open":
        login_file().chmod(0o644)
    else:
        login_file().write_text("tflogin1_AAAA\n")
    found = await findings()
    assert [found[check].status for check in ("login", "token", "coordinator")] == ["FAILED"] * 3
    assert found["login"].fix
    assert found["gateway"].status == "SKIPPED"


async def test_a_coordinator_elsewhere_that_is_down(far: FakeCoordinator) -> None:
    await far.stop()
    found = await findings()
    assert (found["login"].status, found["coordinator"].status) == ("OK", "FAILED")
    assert far.address in found["coordinator"].text


async def test_a_fleet_elsewhere_without_a_gateway_that_answers(far: FakeCoordinator) -> None:
    found = await findings()
    assert (found["gateway"].status, found["gateway"].text) == ("WARNING", "the fleet has none")
    with gateway_that_answers(503) as url:
        attach_gateway(far, url)
        found = await findings()
    assert (found["gateway"].status, "answers 503" in found["gateway"].text) == ("FAILED", True)
    assert found["gateway"].fix


async def test_an_address_without_its_token(far: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEFLEET_ADDRESS", "127.0.0.1:9")
    found = await findings()
    assert [found[check].status for check in ("token", "coordinator")] == ["FAILED", "FAILED"]
    assert "TUNEFLEET_TOKEN" in found["token"].fix
    monkeypatch.setenv("TUNEFLEET_ADDRESS", far.address)
    monkeypatch.setenv("TUNEFLEET_TOKEN", far.token)
    found = await findings()
    assert [found[check].status for check in ("token", "coordinator")] == ["OK", "OK"]
    assert found["up"].status == "SKIPPED"


async def test_the_bundle_of_a_machine_that_is_logged_in_tells_of_its_fleet_and_no_key(
    far: FakeCoordinator, tmp_path: Path
) -> None:
    membership = member(tmp_path / "none" / "tunefleet", days_left=20)
    key = membership.channel_tls().key.decode()
    file = tmp_path / "bundle.tgz"
    await run("doctor", "--bundle", str(file))
    with tarfile.open(file) as tar:
        parts = {
            member.name.removeprefix("tunefleet/"): content.read().decode()
            for member in tar.getmembers()
            if (content := tar.extractfile(member)) is not None
        }
    assert __version__ in parts["fleet.json"]
    assert "far-1:7000" in parts["members/far/member.json"]
    assert "members/far/key.pem" in parts["files.txt"]
    everything = "".join(parts.values())
    assert key.splitlines()[1] not in everything
    assert far.token not in everything


def member(folder: Path, *, days_left: float, days: float = 30) -> Membership:
    """Join as `far`, without a fleet: a key, a certificate that nobody looks at, and its times."""
    pytest.importorskip("cryptography", reason="TLS needs cryptography: pip install 'tunefleet[tls]'")
    membership = Membership(folder / "members" / "far")
    membership.key_and_request()
    membership.keep(
        name="far",
        kind="trainer",
        certificate="a certificate",
        authority="an authority",
        service_address="far-1:7000",
        user_address="far-1:7001",
        user_authority=b"",
        expire_time=time.time() + days * _DAY,
        hosts=(),
    )
    record = membership.folder / "member.json"
    fields = json.loads(record.read_text())
    age = (days - days_left) * _DAY
    times = {name: fields[name] - age for name in ("begin_time", "expire_time")}
    record.write_text(json.dumps(fields | times))
    return membership


@pytest.mark.parametrize(
    ("days_left", "status", "says"),
    [(20, "OK", "good for"), (5, "WARNING", "due to be renewed"), (-2, "FAILED", "has ended 2d")],
)
def test_the_certificate_of_a_member(tmp_path: Path, days_left: float, status: str, says: str) -> None:
    assert check_members(tmp_path) == []
    member(tmp_path, days_left=days_left)
    (found,) = check_members(tmp_path)
    assert (found.status, says in found.text) == (status, True), found
    assert bool(found.fix) == (status != "OK")


@pytest.mark.parametrize("file", ["member.json", "key.pem"])
def test_a_member_whose_files_are_spoilt(tmp_path: Path, file: str) -> None:
    path = member(tmp_path, days_left=20).folder / file
    path.unlink()
    if file == "member.json":
        path.write_text("{")
    (found,) = check_members(tmp_path)
    assert (found.status, file in found.text) == ("FAILED", True)
    assert "tunefleet fleet tokens create" in found.fix
