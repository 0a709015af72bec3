"""A fleet as a user has it: `tunefleet up` as a child process, driven by the terminal client.

It is the fleet of the chaos tests with another way to start: what that one offers to look
at runs and histories, and its proof that no process is left, hold here too.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc.aio
import psutil
from chaos_fleet import TEST_MARKER, ChaosFleet

from tunefleet.backend.v1.backend_service_pb2 import GetBackendRequest
from tunefleet.backend.v1.backend_service_pb2_grpc import BackendServiceStub
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_cli.overrides import read_job
from tunefleet_client import Client
from tunefleet_core.rpc import open_channel
from tunefleet_core.worker.marker import marked_processes

__all__ = [
    "BASE",
    "ENVIRONMENTS",
    "TICKETS",
    "Ended",
    "LocalFleet",
    "adapter_sha256",
    "missing_backend",
    "tickets_job",
]

ROOT = Path(__file__).resolve().parents[2]
TICKETS = ROOT / "examples" / "tickets"
BASE = ROOT / "examples" / "tiny_base" / "model"
ENVIRONMENTS = Path(os.environ.get("TUNEFLEET_ENVS") or ROOT / ".envs")

_COMMAND_SECONDS = 150.0
_START_SECONDS = 90.0
_LEASE_SECONDS = 10.0  # the default of `up`
# The command line has no such option on purpose; a measurement of cold starts needs it.
_COLD_UP = """
import sys
from pathlib import Path
from tunefleet_services.local import UpOptions, run_up
run_up(UpOptions(state_folder=Path(sys.argv[1]), warm=False))
"""


def missing_backend(*names: str) -> str:
    """Return why the backends cannot be tested here; empty if they can."""
    try:
        known = json.loads((ENVIRONMENTS / "index.json").read_text())["environments"]
    except (FileNotFoundError, KeyError, ValueError):
        return f"no environments in {ENVIRONMENTS}: run `make setup`"
    missing = [name for name in names if name not in known]
    return f"not installed in {ENVIRONMENTS}: {', '.join(missing)}" if missing else ""


def tickets_job(*overrides: str, max_steps: int = 30) -> JobSpec:
    """Return the tickets job of the examples, cut short; overrides as after `--set`."""
    return read_job(str(TICKETS / "job.yaml"), [f"train.optim.max_steps={max_steps}", *overrides])


async def adapter_sha256(client: Client, job: Job) -> str:
    """Return the digest of the weights that a job made."""
    model = await client.models.get(job.result.model)
    (sha256,) = (item.sha256 for item in model.manifest.files if item.path == "adapter_model.safetensors")
    return sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    def document(self, kind: str) -> dict[str, Any]:
        """Return the data of the last JSON line of a kind, such as `job.v1.Job` or `error`."""
        lines = [json.loads(line) for line in (self.stdout + self.stderr).splitlines() if line[:1] == "{"]
        return cast("dict[str, Any]", [line["data"] for line in lines if line["kind"].endswith(kind)][-1])


class LocalFleet(ChaosFleet):
    """Everything on one machine, with the backends of TUNEFLEET_ENVS."""

    finish_seconds = 240.0
    """Real training, beside whatever else the machine does."""

    def __init__(self, root: Path, *, warm: bool = True, extra: Mapping[str, str] | None = None) -> None:
        super().__init__(root, lease_seconds=_LEASE_SECONDS)
        self.gateway = ""
        self._extra = dict(extra or {})
        self._is_warm = warm

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the fleet and of the commands that talk to it."""
        return {
            **super().environment,
            "TUNEFLEET_STATE": str(self.state),
            "TUNEFLEET_ENVS": str(ENVIRONMENTS),
            "OMP_NUM_THREADS": "1",  # a second thread only makes models this small slower
            **self._extra,
        }

    async def start(self) -> None:
        """Start the fleet and wait until every service is attached and backends are warm."""
        if self._is_warm:
            await self.spawn("up", "-m", "tunefleet_cli", "up", "--plain")
        else:
            await self.spawn("up", "-u", "-c", _COLD_UP, str(self.state))
        await self.until(self._is_announced, "the fleet is ready", _START_SECONDS)
        endpoints = json.loads((self.state / "endpoints.json").read_text())
        self.user_address, self.service_address = endpoints["user"], endpoints["service"]
        self.gateway = endpoints["gateway"]
        if self._is_warm:
            await self.warmed("trl")

    async def warmed(self, backend: str) -> None:
        """Wait until a host of the backend waits for work with its imports done."""
        await self.until(lambda: self._is_warm_now(backend), f"{backend} is warm", _START_SECONDS)

    async def cli(self, *arguments: str | Path, cwd: Path | None = None) -> Ended:
        """Run a command of the terminal client to its end, as a pipe sees it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tunefleet_cli",
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            cwd=cwd,
        )
        async with asyncio.timeout(_COMMAND_SECONDS):
            stdout, stderr = await process.communicate()
        return Ended(code=process.returncode or 0, stdout=stdout.decode(), stderr=stderr.decode())

    async def done(self, *arguments: str | Path) -> Ended:
        """Run a command that must succeed, with `--json`."""
        ended = await self.cli(*arguments, "--json")
        assert ended.code == 0, f"{arguments}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        return ended

    def processes(self, *words: str) -> list[psutil.Process]:
        """Return the live processes of the fleet whose command line holds all of these words."""
        found: list[psutil.Process] = []
        for process in marked_processes(self.mark, variable=TEST_MARKER):
            try:
                line = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def _is_announced(self) -> bool:
        assert self.is_running("up"), self.log("up")
        return "Fleet ready" in self.log("up")

    def is_running(self, name: str) -> bool:
        """Whether a process of the fleet has not ended."""
        return psutil.pid_exists(self.pid(name)) and psutil.Process(self.pid(name)).status() != "zombie"

    async def _is_warm_now(self, backend: str) -> bool:
        for host in self.processes("tunefleet_core.worker.host", backend):
            line = host.cmdline()
            channel = open_channel(f"unix:{line[line.index('--socket') + 1]}")
            try:
                answer = await BackendServiceStub(channel).GetBackend(GetBackendRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                continue  # it starts or ends just now
            finally:
                await channel.close()
            if answer.is_warm:
                return True
        return False
