"""Clients that know only the protos submit, watch and fetch an adapter from a real fleet."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from chaos_fleet import ChaosFleet, echo_job
from google.protobuf import json_format

from tunefleet_core.ports import free_ports

_CLIENTS = Path(__file__).parents[3] / "examples" / "clients"


async def _start(fleet: ChaosFleet) -> Path:
    """Give the fleet a blobs process and a trainer; return a spec file."""
    blobs = f"127.0.0.1:{free_ports()[0]}"
    await fleet.stop("coordinator")
    await fleet.spawn(
        "coordinator",
        "-m",
        "tunefleet_coordinator",
        "--state",
        str(fleet.state),
        "--user-address",
        fleet.user_address,
        "--service-address",
        fleet.service_address,
        "--lease-seconds",
        str(fleet.lease_seconds),
        "--blob-address",
        blobs,
    )
    await fleet.until(fleet._answers, "the coordinator answers")
    await fleet.spawn(
        "blobs", "-m", "tunefleet_coordinator.blobs", "--state", str(fleet.state), "--address", blobs
    )
    await fleet.start_trainer("trainer", "--no-warm")
    spec = fleet.root / "job.json"
    spec.write_text(json_format.MessageToJson(echo_job(steps=6, every_steps=3)))
    return spec


async def _run(*argv: str, cwd: Path | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_PROXY": "*"},
    )
    try:
        async with asyncio.timeout(120):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()[-3000:]
    return out.decode()


def _assert_whole(told: str, out: Path) -> None:
    result = json.loads(told.splitlines()[-1])
    files = [path for path in out.rglob("*") if path.is_file()]
    assert result["files"] == len(files) > 0
    assert result["job"].startswith("projects/default/jobs/")
    assert (out / "state.json").is_file() or (out / "adapter_config.json").is_file()


async def test_plain_grpc_client_trains_and_fetches(fleet: ChaosFleet) -> None:
    spec = await _start(fleet)
    out = fleet.root / "adapter"
    told = await _run(
        sys.executable,
        str(_CLIENTS / "plain_grpc.py"),
        "--address",
        fleet.user_address,
        "--token-file",
        str(fleet.state / "admin.token"),
        "--spec",
        str(spec),
        "--out",
        str(out),
    )
    _assert_whole(told, out)


def test_plain_grpc_client_imports_no_code_of_ours() -> None:
    source = (_CLIENTS / "plain_grpc.py").read_text()
    for package in ("tunefleet_core", "tunefleet_client", "tunefleet_coordinator", "tunefleet_services"):
        assert package not in source


@pytest.mark.slow  # npm fetches its packages first
@pytest.mark.timeout(400)
async def test_generated_node_client_trains_and_fetches(fleet: ChaosFleet) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is not installed")
    folder = fleet.root / "proto-client" / "clients" / "node"
    shutil.copytree(_CLIENTS / "node", folder, ignore=shutil.ignore_patterns("node_modules", "gen"))
    try:
        await _run(npm, "install", "--no-audit", "--no-fund", cwd=folder)
    except AssertionError as error:
        pytest.skip(f"npm cannot install the packages here: {str(error)[-200:]}")
    proto = str(_CLIENTS.parents[1] / "proto")
    await _run(npm, "exec", "--", "buf", "generate", proto, "--template", "buf.gen.yaml", cwd=folder)
    spec = await _start(fleet)
    out = fleet.root / "adapter"
    token = str(fleet.state / "admin.token")
    told = await _run(node, "client.js", fleet.user_address, token, str(spec), str(out), cwd=folder)
    _assert_whole(told, out)
