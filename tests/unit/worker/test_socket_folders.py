"""Sockets of hosts and their engines: their paths fit, and what a killed one left is removed."""

from __future__ import annotations

import socket
import tempfile
import uuid
from pathlib import Path

import pytest

from tunefleet_services.hosts import HostRecord, remove_stale_sockets
from tunefleet_services.hosts.host import socket_folder

_SHORTEST_LIMIT = 103  # macOS


def record_of(path: Path) -> HostRecord:
    """Return the record of a host that listens there."""
    return HostRecord(
        backend="vllm", mark="0" * 32, pid=1, create_time=0.0, socket=str(path), environment_digest=""
    )


@pytest.mark.parametrize("length", [2, 20, 60])
def test_a_socket_of_an_engine_has_a_path_that_fits(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    # Behind a long temporary folder they are in /tmp, whatever the variable says.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t" * length) as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        record = record_of(socket_folder() / f"{uuid.uuid4().hex[:16]}.sock")
        path = record.make_socket_folder() / str(uuid.uuid4())
        assert len(str(path)) <= _SHORTEST_LIMIT
        with socket.socket(socket.AF_UNIX) as engine:
            engine.bind(str(path))
        record.remove_sockets()
        assert not path.parent.exists()


def test_sockets_of_hosts_that_are_gone_go_and_a_live_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        kept: dict[str, Path] = {}
        with socket.socket(socket.AF_UNIX) as killed, socket.socket(socket.AF_UNIX) as live:
            for name, host in (("killed", killed), ("live", live)):
                record = record_of(socket_folder() / f"{name}.sock")
                host.bind(record.socket)
                kept[name] = record.make_socket_folder() / str(uuid.uuid4())
                with socket.socket(socket.AF_UNIX) as engine:
                    engine.bind(str(kept[name]))
            live.listen()
            killed.close()
            ended = record_of(socket_folder() / "ended.sock").make_socket_folder()
            remove_stale_sockets()
            assert not kept["killed"].parent.exists()
            assert not ended.exists()
            assert kept["live"].is_socket()
