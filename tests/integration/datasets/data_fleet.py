"""A fleet of real processes whose coordinator has a blobs process beside it."""

from __future__ import annotations

from pathlib import Path

from chaos_fleet import ChaosFleet

from tunefleet_core.ports import free_ports

__all__ = ["DataFleet"]


class DataFleet(ChaosFleet):
    """Coordinator and blobs process, on a disk of which `least_free_bytes` stay free."""

    def __init__(
        self, root: Path, *, least_free_bytes: int | None = 1 << 20, blob_grace_seconds: float = 3600
    ) -> None:
        self.blob_address = f"127.0.0.1:{free_ports()[0]}"
        self._disk = () if least_free_bytes is None else ("--least-free-bytes", str(least_free_bytes))
        grace = ("--blob-grace-seconds", str(blob_grace_seconds))
        super().__init__(root, coordinator_options=("--blob-address", self.blob_address, *grace, *self._disk))

    async def start_coordinator(self) -> None:
        """Start both processes and wait until the coordinator answers."""
        await super().start_coordinator()
        await self.start_blobs()

    async def start_blobs(self) -> None:
        """Start the blobs process; clients wait for it by themselves."""
        await self.spawn(
            "blobs",
            "-m",
            "tunefleet_coordinator.blobs",
            "--state",
            str(self.state),
            "--address",
            self.blob_address,
            *self._disk,
        )
