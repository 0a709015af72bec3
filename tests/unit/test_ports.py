"""Ports for servers to come are free, different, and not what outgoing connections take."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tunefleet_core import ports
from tunefleet_core.ports import free_ports, is_free_port


def test_they_can_all_be_bound() -> None:
    chosen = free_ports(20)
    assert len(set(chosen)) == 20
    sockets = [socket.create_server(("127.0.0.1", port)) for port in chosen]
    try:
        assert not any(is_free_port("127.0.0.1", port) for port in chosen)
    finally:
        for item in sockets:
            item.close()


def test_what_is_taken_or_promised_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = socket.create_server(("127.0.0.1", free_ports()[0]))
    used = int(listening.getsockname()[1])
    monkeypatch.setattr(ports, "_CANDIDATES", [used, 15_001, 15_002])
    with listening:
        assert free_ports(taken=[15_001]) == [15_002]
        with pytest.raises(OSError, match=r"in use|Fewer than 2"):
            free_ports(2, taken=[15_001])


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError):  # noqa: PT011 (each system words it its own way)
        free_ports(host="192.0.2.1")


def test_connections_of_this_host_never_take_them() -> None:
    settings = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not settings.exists():
        pytest.skip("this system does not say which ports connections take")
    first = int(settings.read_text().split()[0])
    if first < 32_768:
        pytest.skip(f"this host was set up to take ports from {first} on")
    assert max(free_ports(50)) < first
