"""A coordinator, its blobs process and a gateway for the whole module; hypothesis asks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tunefleet_core.ports import free_ports

_LIMIT_SECONDS = 60.0


@dataclass
class FuzzedFleet:
    """Processes that are asked anything, and what they logged."""

    root: Path
    user: str
    service: str
    blobs: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.root / "state"

    def bearer(self, name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {(self.state / f'{name}.token').read_text().strip()}"),)

    def start(self, name: str, *arguments: str) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,  # ends with the test run, however that ends
                stdout=log,
                stderr=log,
                env={**os.environ, "TUNEFLEET_SUPERVISED": "1"},
            )

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")

    def assert_well(self) -> None:
        """Assert that every process lives and none logged a fault."""
        for name, process in self.processes.items():
            assert process.poll() is None, (
                f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}"
            )
            faults = [
                line for line in self.log(name).splitlines() if '"ERROR"' in line or "a fault in" in line
            ]
            assert not faults, f"{name}: {faults[0][:6000]}"

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)
            if process.stdin is not None:
                process.stdin.close()


def _ports(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


def _await_serving(fleet: FuzzedFleet) -> None:
    started = time.monotonic()
    with grpc.insecure_channel(fleet.user, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() - started < _LIMIT_SECONDS:
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                answer = None
            if answer is not None and answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(0.05)
    raise AssertionError(f"the coordinator does not serve:\n{fleet.log('coordinator')[-3000:]}")


@pytest.fixture(scope="module")
def fleet() -> Iterator[FuzzedFleet]:
    """A coordinator and its blobs process."""
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    user, service, blobs = _ports(3)
    running = FuzzedFleet(root=root, user=user, service=service, blobs=blobs)
    try:
        running.start(
            "coordinator",
            "tunefleet_coordinator",
            "--state",
            str(running.state),
            "--user-address",
            user,
            "--service-address",
            service,
            "--lease-seconds",
            "2",
        )
        _await_serving(running)
        running.start(
            "blobs", "tunefleet_coordinator.blobs", "--state", str(running.state), "--address", blobs
        )
        yield running
    finally:
        running.end()
        shutil.rmtree(root, ignore_errors=True)
