"""The harness of the chaos tests with TLS on, and services whose machine is another folder."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from chaos_fleet import ChaosFleet

from tunefleet_client import Client, connect
from tunefleet_client.calls import Backoff
from tunefleet_core.errors import TunefleetError
from tunefleet_core.invitations import Invitation, InvitationKind
from tunefleet_core.ports import free_ports
from tunefleet_core.rpc import ChannelTls

__all__ = ["JoinedFleet"]


class JoinedFleet(ChaosFleet):
    """A fleet that services join over mutual TLS."""

    def __init__(self, root: Path, *, certificate_seconds: float = 86_400.0) -> None:
        ports = free_ports(6)
        self.member_address, self.blob_address, self.member_blob_address = (
            f"127.0.0.1:{port}" for port in ports[:3]
        )
        self.gateway_ports = ports[3:]
        super().__init__(
            root,
            lease_seconds=4.0,
            coordinator_options=(
                "--tls",
                *("--public-name", "localhost"),
                *("--member-address", self.member_address),
                *("--blob-address", self.blob_address),
                *("--member-blob-address", self.member_blob_address),
                *("--certificate-seconds", str(certificate_seconds)),
            ),
        )

    @property
    def authority(self) -> Path:
        """What the coordinator's certificate is checked by."""
        return self.state / "authority" / "trust.pem"

    @property
    def tls(self) -> ChannelTls:
        return ChannelTls(authority=self.authority.read_bytes())

    async def start_blobs(self) -> None:
        """Start the blobs process: TLS for people, mutual TLS for services."""
        folder = self.state / "authority"
        await self.spawn(
            "blobs",
            *("-m", "tunefleet_coordinator.blobs", "--state", str(self.state)),
            *("--address", self.blob_address, "--member-address", self.member_blob_address),
            *("--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key")),
        )

    async def start_gateway(self) -> None:
        """Start a gateway of the coordinator's machine: HTTPS, gRPC with TLS, a door for relays."""
        folder = self.state / "authority"
        openai, inference, relay = self.gateway_ports
        await self.spawn(
            "gateway",
            *("-m", "tunefleet_services.gateway", "--state", str(self.state)),
            *("--address", self.service_address, "--token-file", str(self.state / "service.token")),
            *("--port", str(openai), "--inference-port", str(inference), "--relay-port", str(relay)),
            *("--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key")),
            *("--relay-certificates", str(folder), "--public-name", "localhost"),
        )
        async with self.client() as client:
            await self.until(lambda: self._is_attached(client, "gateway", 0), "the gateway is attached")

    async def invite(
        self, kind: str, *, service: str = "", seconds: float = 600.0, uses: int = 1
    ) -> Invitation:
        """Make a join token, as `tunefleet fleet tokens create` does."""
        async with self.client() as client:
            fleet = await client.fleet.info()
            made = await client.join_tokens.create(
                kind, service=service, ttl=timedelta(seconds=seconds), uses=uses
            )
        return Invitation(
            kind=InvitationKind.JOIN,
            address=fleet.user_address,
            secret=made.secret,
            authority=fleet.authority.encode(),
            service=service,
        )

    async def start_member(
        self, name: str, kind: str, invitation: Invitation | None = None, *options: str
    ) -> None:
        """Start a service by the command line, in a state folder of its own; first with an invitation."""
        machine = self.machine(name)
        words: tuple[str, ...] = ()
        if invitation is not None:
            file = self.root / f"{name}.join"
            file.write_text(str(invitation))
            words = ("--join-file", str(file), "--name", name)
        before = await self._epoch(name)
        await self.spawn(name, *("-m", "tunefleet_cli", kind, "--state", str(machine)), *words, *options)
        async with self.client() as client:
            await self.until(lambda: self._is_attached(client, name, before), f"{name} is attached")

    async def exit_code(self, name: str) -> int | None:
        """Wait until a process has ended by itself and return its code."""
        process = self._processes[name]
        await self.until(lambda: process.returncode is not None, f"{name} has ended")
        return process.returncode

    def machine(self, name: str) -> Path:
        """Return the state folder of the machine that a service runs on."""
        return self.root / f"machine-{name}"

    def _work(self, trainer: str) -> Path:
        there = self.machine(trainer) / "services" / trainer
        return there if there.exists() else super()._work(trainer)

    @asynccontextmanager
    async def client(self, *, tries: int = 20) -> AsyncGenerator[Client]:
        """Open a client with the admin token, over TLS."""
        backoff = Backoff(most_seconds=0.3, tries=tries)
        async with connect(
            self.user_address, self.token("admin"), ca=self.authority, backoff=backoff
        ) as client:
            yield client

    async def _answers(self) -> bool:
        process = self._processes["coordinator"]
        assert process.returncode is None, self.log("coordinator")
        if not self.authority.exists() or not (self.state / "admin.token").exists():
            return False
        try:
            async with self.client(tries=1) as client:
                await client.fleet.list()
        except TunefleetError:
            return False
        return True
