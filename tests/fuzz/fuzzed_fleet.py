"""Every process of a fleet that answers gRPC, to be asked anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tunefleet.fleet.v1.fleet_service_pb2 import ListServicesRequest
from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from tunefleet_core.ports import free_ports
from tunefleet_core.rpc import ChannelTls

__all__ = ["FuzzedFleet", "await_attached", "await_file", "await_serving", "channel_to", "free_addresses"]

_LIMIT_SECONDS = 60.0


@dataclass
class FuzzedFleet:
    """Processes that are asked anything, and what they logged."""

    root: Path
    user: str
    service: str
    blobs: str
    member: str
    inference: str
    relay: str
    openai: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def backend(self) -> str:
        """Where the contract host of `echo` answers."""
        return f"unix:{self.root / 'host'}"

    @property
    def authority(self) -> bytes:
        """What certificates of listeners for people are checked by, PEM."""
        return (self.state / "authority" / "trust.pem").read_bytes()

    def bearer(self, name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {(self.state / f'{name}.token').read_text().strip()}"),)

    def start(self, name: str, *arguments: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TUNEFLEET_")}
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,  # ends with the test run, however that ends
                stdout=log,
                stderr=log,
                cwd=self.root,  # paths of orders are drawn too
                env={**kept, "TUNEFLEET_SUPERVISED": "1"},
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


def free_addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


def await_serving(fleet: FuzzedFleet, name: str, address: str, authority: bytes | None = None) -> None:
    started = time.monotonic()
    tls = ChannelTls(authority=authority) if authority else None
    with channel_to(address, tls) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() - started < _LIMIT_SECONDS:
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                answer = None
            if answer is not None and answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(0.05)
    raise AssertionError(f"{name} does not serve:\n{fleet.log(name)[-3000:]}")


def channel_to(address: str, tls: ChannelTls | None = None) -> grpc.Channel:
    """Return a channel that goes through no proxy."""
    options = [("grpc.enable_http_proxy", 0)]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.authority,
        private_key=tls.key or None,
        certificate_chain=tls.certificate or None,
    )
    return grpc.secure_channel(address, credentials, options=options)


def await_attached(fleet: FuzzedFleet, *names: str) -> None:
    """Wait until services are attached: then jobs and deployments are taken, and there is more to ask."""
    started = time.monotonic()
    with channel_to(fleet.user, ChannelTls(authority=fleet.authority)) as channel:
        stub = FleetServiceStub(channel)
        missing = set(names)
        while missing:
            assert time.monotonic() - started < _LIMIT_SECONDS, f"not attached: {missing}"
            time.sleep(0.1)
            answer = stub.ListServices(ListServicesRequest(), metadata=fleet.bearer("admin"), timeout=5)
            missing -= {item.name.removeprefix("services/") for item in answer.services}


def await_file(fleet: FuzzedFleet, name: str, path: Path) -> None:
    started = time.monotonic()
    while not path.exists():
        assert time.monotonic() - started < _LIMIT_SECONDS, f"{name}:\n{fleet.log(name)[-3000:]}"
        time.sleep(0.05)
