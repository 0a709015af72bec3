"""The page about the state folder names every file that real fleets leave there, and none that is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_fleet import ChaosFleet, echo_job

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet_client import connect

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "state-folder.md"
BASE = ROOT / "examples" / "tiny_base" / "model"
_NAMES = {"NAME": "[^/]+", "JOB-N": "[^/]+-[0-9]+", "JOB": "[^/]+", "ab/abcd…": "[0-9a-f]{2}/[0-9a-f]{64}"}
# What neither of the two fleets below does, and who makes it.
_ELSEWHERE = {
    "services/NAME/tracking/": "jobs with trackers",
    "services/NAME/models/": "jobs that go on from a model of the fleet",
    "mini/JOB/": "train --mini",
    "chat_history": "a chat at a terminal",
    "envs/": "plugins install",
    "artifacts/uploads/": "there for a moment",
}


def rows() -> list[str]:
    """Return the paths of the table, as the page writes them."""
    found: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        words = re.findall(r"`([^`]+)`", line.split("|")[1])
        found += [f"{words[0]}{word}" if word.startswith("-") else word for word in words]
    return found


def pattern(row: str) -> re.Pattern[str]:
    """Return what a row means: of a folder, everything below it."""
    parts = re.split("|".join(map(re.escape, _NAMES)), row)
    names = re.findall("|".join(map(re.escape, _NAMES)), row)
    text = "".join(
        re.escape(part) + (_NAMES[names[index]] if index < len(names) else "")
        for index, part in enumerate(parts)
    )
    return re.compile(f"{text}.+" if row.endswith("/") else text)


class Seen:
    """Everything that was ever a file or socket below some folders."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self.paths: set[str] = set()

    def _look(self) -> Iterator[str]:
        for folder in self._folders:
            for path in folder.rglob("*"):
                if not path.is_dir() and not path.name.startswith(".") and not path.name.endswith("-journal"):
                    yield str(path.relative_to(folder))

    async def watch(self) -> None:
        """Look again and again; what goes while one looks is of no account."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                self.paths.update(self._look())
            await asyncio.sleep(0.02)


async def test_the_page_names_what_a_real_state_folder_holds() -> None:
    pytest.importorskip("cryptography", reason="TLS needs cryptography: pip install 'tunefleet[tls]'")
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    fleet, far = ChaosFleet(root, lease_seconds=10.0), root / "far"
    seen = Seen(fleet.state, far)
    watching = asyncio.create_task(seen.watch())
    try:
        await fleet.spawn(
            "up",
            *("-m", "tunefleet_cli", "up", "--plain", "--tls", "--state", str(fleet.state)),
        )
        await fleet.until(lambda: "Fleet ready" in fleet.log("up"), "the fleet is ready", 60.0)
        address = json.loads((fleet.state / "endpoints.json").read_text())["user"]
        async with connect(state_folder=fleet.state) as client:
            rows_file = root / "rows.jsonl"
            rows_file.write_text('{"messages": [{"role": "assistant", "content": "a"}]}\n')
            await client.datasets.create("rows", rows_file)
            made = await client.deployments.create(
                DeploymentSpec(model=str(BASE), engine="echo"), deployment_id="base"
            )
            job = await client.jobs.create(echo_job(steps=20, every_steps=5))
            await _succeeded(fleet, client, job.name)
            await client.deployments.create(DeploymentSpec(model=f"models/{job.name.rpartition('/')[2]}"))
            await fleet.until(lambda: _is_ready(client, made.name), "the base is served", 60.0)
            await _join(fleet, far, address)
            await client.fleet.drain("services/trainer")
            spec = echo_job(steps=20, every_steps=5)
            spec.train.data.train[0].source = "datasets/rows"
            await _succeeded(fleet, client, (await client.jobs.create(spec)).name)
    finally:
        watching.cancel()
        await fleet.close()
        shutil.rmtree(root, ignore_errors=True)
    patterns = {row: pattern(row) for row in rows()}
    unnamed = sorted(path for path in seen.paths if not any(one.fullmatch(path) for one in patterns.values()))
    assert unnamed == []
    unseen = {row for row, one in patterns.items() if not any(one.fullmatch(path) for path in seen.paths)}
    assert unseen <= set(_ELSEWHERE), sorted(unseen - set(_ELSEWHERE))
    assert set(_ELSEWHERE) <= set(patterns)


async def _succeeded(fleet: ChaosFleet, client: object, name: str) -> None:
    ended, events = await fleet.finish(client, name)  # pyright: ignore[reportArgumentType]
    assert ended.state, events


async def _is_ready(client: object, name: str) -> bool:
    found = await client.deployments.get(name)  # pyright: ignore
    return found.state == DeploymentState.DEPLOYMENT_STATE_READY


async def _join(fleet: ChaosFleet, far: Path, address: str) -> None:
    asked = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tunefleet_cli", "fleet", "tokens", "create", "--kind", "trainer", "--name", "far"),
        env={**fleet.environment, "TUNEFLEET_STATE": str(fleet.state)},
        stdout=asyncio.subprocess.PIPE,
    )
    invitation, _ = await asked.communicate()
    assert asked.returncode == 0
    (fleet.root / "join").write_bytes(invitation)
    await fleet.spawn(
        "far",
        *("-m", "tunefleet_cli", "trainer", "--state", str(far), "--join-file", str(fleet.root / "join")),
    )

    async def is_attached() -> bool:
        async with connect(state_folder=fleet.state) as client:
            return "services/far" in [item.name for item in await client.fleet.list()]

    await fleet.until(is_attached, f"far is attached at {address}", 60.0)
