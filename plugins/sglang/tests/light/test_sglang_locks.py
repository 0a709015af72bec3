"""The lock names SGLang and the torch that its kernels are for."""

from __future__ import annotations

import re
from importlib.resources import files

PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)")


def test_gpus_get_sglang_and_its_torch() -> None:
    lines = (files("tunefleet_sglang.locks") / "linux-x86_64-cuda.txt").read_text().splitlines()
    found = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found), "exact pins, no local versions"
    pins = {match[1].lower().replace("_", "-"): match[2] for match in found if match}
    assert (pins["sglang"], pins["torch"], pins["sglang-kernel"]) == ("0.5.23", "2.14.1", "0.4.10")
    assert {"grpcio", "protobuf", "pluggy", "psutil"} <= set(pins), "what the contract host needs"
    assert "# resolve-torch-dependencies" in lines


def test_there_is_no_lock_without_a_gpu() -> None:
    """What tests run on a processor has stand-ins for kernels: nobody is to install that."""
    names = {file.name for file in files("tunefleet_sglang.locks").iterdir() if file.name.endswith(".txt")}
    assert names == {"linux-x86_64-cuda.txt"}
