"""A blobs process of a test's own, and clients of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio

from tunefleet_client.calls import Backoff, Connection
from tunefleet_client.channels import Channels
from tunefleet_client.transfers import Transfers
from tunefleet_core.artifacts import BlobStore
from tunefleet_core.ports import free_ports

__all__ = ["BlobsProcess"]

_QUICK = Backoff(first_seconds=0.05, most_seconds=0.2)


class BlobsProcess:
    """Starts and kills `python -m tunefleet_coordinator.blobs`."""

    def __init__(self, state: Path, *options: str) -> None:
        self.state = state
        self.address = f"127.0.0.1:{free_ports()[0]}"
        self.store = BlobStore(state / "artifacts")
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it listens."""
        with (self.state.parent / f"{self.state.name}-blobs.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tunefleet_coordinator.blobs",
                "--state",
                str(self.state),
                "--address",
                self.address,
                *self._options,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(60):
            while not await self._listens():
                assert self._process.returncode is None, (
                    self.state.parent / f"{self.state.name}-blobs.log"
                ).read_text()
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Kill it as a crash would."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def restart(self) -> None:
        """Kill it and start it again."""
        await self.kill()
        await self.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def token(self) -> str:
        """The admin token."""
        return (self.state / "admin.token").read_text().strip()

    @asynccontextmanager
    async def transfers(
        self, *, give_up_seconds: float = 60, may_hand_over: bool = False
    ) -> AsyncGenerator[Transfers]:
        """Open a client; without handing over, bytes travel as they do between hosts."""
        channels = Channels(None)
        try:
            connection = self.connection(channels)
            yield Transfers(
                connection, self._told, give_up_seconds=give_up_seconds, may_hand_over=may_hand_over
            )
        finally:
            await channels.close()

    def connection(self, channels: Channels) -> Connection:
        """Return a connection with the admin token."""
        return Connection(address=self.address, token=self.token, channels=channels, backoff=_QUICK)

    def partials(self) -> list[Path]:
        """Return what lies in the store and is no whole blob."""
        found = [path for path in self.store.root.rglob("*") if path.is_file()]
        return [path for path in found if len(path.name) != 64 and path.name != "prune.lock"]

    def open_files(self) -> int:
        """Return how many files the process has open below its store."""
        found = 0
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found += str(self.store.root) in os.readlink(link)
        return found

    async def closes_all_files(self) -> None:
        """Wait until it has no file open below its store: it sees later than its client that a call ended."""
        async with asyncio.timeout(60):
            while self.open_files():
                await asyncio.sleep(0.02)

    def most_memory_bytes(self) -> int:
        """Return the most memory that the process ever had."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    async def _told(self) -> str:
        return self.address

    async def _listens(self) -> bool:
        channel = grpc.aio.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)])
        try:
            async with asyncio.timeout(1):
                await channel.channel_ready()
                return True
        except TimeoutError:
            return False
        finally:
            await channel.close()
