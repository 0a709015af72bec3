"""A login is one string, kept for its owner alone, and only ever sent to the fleet that it names."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tunefleet_client.login import forget_login, keep_login, login_file, read_login
from tunefleet_client.state import find_target
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.invitations import Invitation, InvitationKind

_LOGIN = Invitation(kind=InvitationKind.LOGIN, address="gpu0.example:7460", secret="tf_secret")


@pytest.fixture(autouse=True)
def _own_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TUNEFLEET_STATE", "TUNEFLEET_ADDRESS", "TUNEFLEET_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_string_carries_everything_and_a_certificate_when_there_is_one(certificate: Path) -> None:
    pem = certificate.read_bytes()
    pem = pem[pem.index(b"-----BEGIN CERTIFICATE") :]
    whole = Invitation(kind=InvitationKind.JOIN, address="[::1]:7", secret="s", authority=pem, service="far")
    text = str(whole)
    read = Invitation.read(f"  {text[:40]}\n {text[40:]}\n", InvitationKind.JOIN)  # as it is pasted
    assert (read.address, read.secret, read.service) == ("[::1]:7", "s", "far")
    assert (
        read.authority.split() == pem[: pem.index(b"-----END")].split() + b"-----END CERTIFICATE-----".split()
    )
    assert "tf_secret" not in repr(_LOGIN)


@pytest.mark.parametrize("text", ["", "tflogin1_", "tf_secret", str(_LOGIN)[:-3], str(_LOGIN) + "A"])
def test_what_is_no_whole_string_is_refused_with_the_next_step(text: str) -> None:
    with pytest.raises(TunefleetError) as caught:
        Invitation.read(text, InvitationKind.LOGIN)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.hint


def test_a_login_is_not_taken_for_a_join() -> None:
    with pytest.raises(TunefleetError, match="begins with tflogin1_"):
        Invitation.read(str(_LOGIN), InvitationKind.JOIN)


def test_a_login_is_kept_for_its_owner_and_goes_before_the_usual_state_folder_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "state" / "tunefleet"
    folder.mkdir(parents=True)
    (folder / "endpoints.json").write_text(json.dumps({"user": "127.0.0.1:1"}))
    (folder / "admin.token").write_text("local")
    (folder / "admin.token").chmod(0o600)
    assert find_target().token == "local"
    path = keep_login(_LOGIN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = find_target()
    assert (found.address, found.token) == ("gpu0.example:7460", "tf_secret")
    assert find_target(folder=folder).token == "local"
    assert find_target("127.0.0.1:1").token == "local"
    with pytest.raises(TunefleetError, match="no token for stranger"):
        find_target("stranger:7460")
    monkeypatch.setenv("TUNEFLEET_STATE", str(folder))
    assert find_target().token == "local"
    monkeypatch.delenv("TUNEFLEET_STATE")
    path.chmod(0o640)
    with pytest.raises(TunefleetError, match="Others on this machine"):
        read_login()
    assert forget_login()
    assert not login_file().exists()
    assert find_target().token == "local"
