"""What keeps a fleet from starting here is said at once, by name, before anything is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.ports import free_ports
from tunefleet_services.local import UpOptions, run_up
from tunefleet_services.local import up as module


def test_a_folder_that_can_be_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.write_text("")
    with pytest.raises(TunefleetError) as caught:
        run_up(UpOptions(state_folder=file / "state"))
    assert caught.value.reason is Reason.FIELD_INVALID
    assert f"'{file / 'state'}' cannot be the state folder" in caught.value.message
    assert "tunefleet up --state DIR" in caught.value.hint


def test_a_port_that_is_taken_is_named_and_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PORTS_LIMIT_SECONDS", 0.2)
    listening = socket.create_server(("127.0.0.1", free_ports()[0]))
    port = int(listening.getsockname()[1])
    said: list[str] = []
    options = UpOptions(state_folder=tmp_path / "state", port=port, announce=said.append)
    with listening, pytest.raises(TunefleetError) as caught:
        run_up(options)
    assert caught.value.reason is Reason.UNAVAILABLE
    assert f"127.0.0.1:{port} is taken" in caught.value.message
    assert not (tmp_path / "state" / "endpoints.json").exists()
    assert not said
