"""Address and token are found in order, and a token is never handed to a stranger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunefleet_client.state import find_target, is_loopback, read_token, state_folder
from tunefleet_core.errors import Reason, TunefleetError


def write_state(folder: Path, *, user: str = "127.0.0.1:7000", token: str = "from-file\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "endpoints.json").write_text(json.dumps({"user": user, "service": "", "gateway": ""}))
    path = folder / "admin.token"
    path.write_text(token)
    path.chmod(0o600)


def test_the_state_folder_is_argument_then_variable_then_xdg_then_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    monkeypatch.setenv("TUNEFLEET_STATE", "/variable")
    assert state_folder("/argument") == Path("/argument")
    assert state_folder() == Path("/variable")
    monkeypatch.delenv("TUNEFLEET_STATE")
    assert state_folder() == Path("/xdg/tunefleet")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local/state/tunefleet"


def test_arguments_win_over_the_environment_and_that_over_the_state_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_state(tmp_path)
    found = find_target(folder=tmp_path)
    assert (found.address, found.token) == ("127.0.0.1:7000", "from-file")
    monkeypatch.setenv("TUNEFLEET_ADDRESS", "127.0.0.1:7001")
    monkeypatch.setenv("TUNEFLEET_TOKEN", "from-variable")
    found = find_target(folder=tmp_path)
    assert (found.address, found.token) == ("127.0.0.1:7001", "from-variable")
    found = find_target("127.0.0.1:7002", "from-argument", tmp_path)
    assert (found.address, found.token) == ("127.0.0.1:7002", "from-argument")


def test_the_token_of_the_state_folder_goes_to_no_other_address(tmp_path: Path) -> None:
    write_state(tmp_path)
    assert find_target("127.0.0.1:7000", folder=tmp_path).token == "from-file"
    with pytest.raises(TunefleetError, match="no token for 127") as caught:
        find_target("127.0.0.1:9", folder=tmp_path)
    assert caught.value.reason is Reason.TOKEN_INVALID


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_token_that_others_can_read_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    write_state(tmp_path)
    (tmp_path / "admin.token").chmod(mode)
    with pytest.raises(TunefleetError) as caught:
        read_token(tmp_path)
    assert caught.value.reason is Reason.TOKEN_INVALID
    assert caught.value.hint == f"chmod 600 {tmp_path / 'admin.token'}"


@pytest.mark.parametrize("content", ["", "\n", "one\ntwo\n"])
def test_a_token_file_without_exactly_one_line_is_refused(tmp_path: Path, content: str) -> None:
    write_state(tmp_path, token=content)
    with pytest.raises(TunefleetError, match="not one line"):
        read_token(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"user": 7}', '{"user": ""}', "\xff"])
def test_unreadable_endpoints_are_an_unavailable_coordinator(tmp_path: Path, content: str) -> None:
    write_state(tmp_path)
    (tmp_path / "endpoints.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(TunefleetError) as caught:
        find_target(folder=tmp_path)
    assert caught.value.reason is Reason.UNAVAILABLE
    assert "tunefleet up" in caught.value.hint


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/tmp/x"])
def test_loopback_is_recognised(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address", ["10.0.0.1:1", "0.0.0.0:1", "localhost.evil.example:1", "127.0.0.1.evil.example:1", "[::2]:1"]
)
def test_other_machines_are_not_loopback(address: str) -> None:
    assert not is_loopback(address)
