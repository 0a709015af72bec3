"""A base is named by its Hub id: planned before it is here, fetched before it is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import COMMIT, FakeHub, serving

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "examples" / "tiny_base" / "model"

_READ = """
import json, sys
from google.protobuf.json_format import MessageToDict
from tunefleet_core.catalog import read_base
from tunefleet_core.errors import TunefleetError
try:
    facts = read_base(sys.argv[1], revision=sys.argv[2])
    print(json.dumps(MessageToDict(facts, preserving_proto_field_name=True)))
except TunefleetError as error:
    print(json.dumps({"reason": error.reason.value, "message": error.message, "hint": error.hint}))
"""


def large_base(folder: Path, *, shards: int = 2, megabytes: int = 48) -> Path:
    """Write a base whose weights are larger than what a plan fetches whole, in shards."""
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    weight_map: dict[str, str] = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        tensor = f"layer.{number}.weight"
        size = megabytes << 20
        header = json.dumps({tensor: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        body = bytes(range(256)) * (size // 256)
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + body)
        weight_map[tensor] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    models = {"org/tiny": BASE, "org/closed": BASE, "org/large": large_base(tmp_path / "large")}
    with serving(FakeHub(models=models, gated={"org/closed"})) as fake:
        yield fake


def environment(home: Path, hub: FakeHub, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_HOME": str(home), "HF_ENDPOINT": hub.address, **extra}


def read(model: str, env: dict[str, str], revision: str = "") -> dict[str, Any]:
    command = [sys.executable, "-c", _READ, model, revision]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def test_a_small_base_is_fetched_whole_and_then_needs_no_hub(tmp_path: Path, hub: FakeHub) -> None:
    env = environment(tmp_path / "hf", hub)
    facts = read("org/tiny", env)
    assert facts["commit"] == COMMIT
    assert (Path(facts["path"]) / "model.safetensors").is_file()
    local = read(str(BASE), env)
    assert facts["base_digest"] == local["base_digest"]  # the same model, wherever it was read
    assert facts["tokenizer_digest"] == local["tokenizer_digest"]

    hub.models.clear()
    assert read("org/tiny", env)["base_digest"] == facts["base_digest"]
    assert read("org/tiny", {**env, "HF_HUB_OFFLINE": "1"})["commit"] == COMMIT


def test_a_large_base_is_planned_from_its_headers(tmp_path: Path, hub: FakeHub) -> None:
    env = environment(tmp_path / "hf", hub)
    facts = read("org/large", env)
    weights = sum(size for name, size in hub.sent.items() if name.endswith(".safetensors"))
    assert weights < 4 << 20, "a plan fetched weights"
    assert not list(Path(facts["path"]).glob("*.safetensors"))
    local = read(str(hub.models["org/large"]), env)
    assert facts["base_digest"] == local["base_digest"]
    assert facts["tensors"] == local["tensors"]
    assert facts["weights_bytes"] == local["weights_bytes"]


def test_what_the_hub_does_not_give_is_said(tmp_path: Path, hub: FakeHub) -> None:
    env = environment(tmp_path / "hf", hub)
    unknown = read("org/nothing", env)
    assert unknown["reason"] == "BASE_INVALID"
    assert "no model 'org/nothing' on the Hub, or it is private" in unknown["message"]
    assert "HF_TOKEN" in unknown["hint"]

    closed = read("org/closed", env)
    assert closed["reason"] == "HUB_ACCESS_DENIED"
    assert "https://huggingface.co/org/closed" in closed["hint"]
    assert read("org/closed", {**env, "HF_TOKEN": hub.token})["commit"] == COMMIT

    revision = read("org/tiny", env, "v9")
    assert revision["reason"] == "BASE_INVALID"
    assert "no revision 'v9'" in revision["message"]


def test_without_a_network_it_says_offline(tmp_path: Path, hub: FakeHub) -> None:
    env = environment(tmp_path / "hf", hub)
    told = read("org/tiny", {**env, "HF_HUB_OFFLINE": "1"})
    assert told["reason"] == "HUB_UNREACHABLE"
    assert "stay offline" in told["message"]
    nobody = read("org/tiny", {**env, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert nobody["reason"] == "HUB_UNREACHABLE"
    assert "folder" in nobody["hint"]


def test_a_disk_too_small_is_said_before_anything_is_fetched(tmp_path: Path, hub: FakeHub) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(reason="mounting a small tmpfs needs root")
    try:
        refused = read("org/large", environment(disk / "hf", hub))
        assert refused["reason"] == "DISK_FULL"
        assert "100.7 MB" in refused["message"] or "0.1 GB" in refused["message"]
        assert "HF_HOME" in refused["hint"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_fetch_that_was_killed_goes_on_where_it_stopped(tmp_path: Path, hub: FakeHub) -> None:
    env = environment(tmp_path / "hf", hub)
    facts = read("org/large", env)
    hub.piece_delay_seconds = 0.05
    arguments = [sys.executable, "-m", "tunefleet_core.catalog.hub_fetch"]
    arguments += ["--model", "org/large", "--commit", COMMIT]
    blobs = Path(facts["path"]).parents[1] / "blobs"
    with subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True) as first:
        while sum(path.stat().st_size for path in blobs.glob("*.incomplete")) < 8 << 20:
            assert first.poll() is None
            time.sleep(0.02)
        first.kill()
    hub.piece_delay_seconds = 0.0
    ended = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=120, check=True)
    last = json.loads(ended.stdout.splitlines()[-1])
    assert last["done_bytes"] == last["total_bytes"] > 0
    for source in hub.models["org/large"].glob("*.safetensors"):
        assert (Path(facts["path"]) / source.name).read_bytes() == source.read_bytes()
    assert read("org/large", {**env, "HF_HUB_OFFLINE": "1"})["base_digest"] == facts["base_digest"]


def test_a_failed_fetch_tells_why_in_its_last_line(tmp_path: Path, hub: FakeHub) -> None:
    env = environment(tmp_path / "hf", hub)
    arguments = [sys.executable, "-m", "tunefleet_core.catalog.hub_fetch"]
    arguments += ["--model", "org/nothing", "--commit", COMMIT]
    ended = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert json.loads(ended.stdout.splitlines()[-1])["error"]["reason"] == "BASE_INVALID"
    assert "Traceback" not in ended.stderr
