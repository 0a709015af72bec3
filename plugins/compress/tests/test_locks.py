"""The locks name every package this environment needs, at the versions that these tests run on."""

from __future__ import annotations

import re
from importlib.metadata import distribution, version
from importlib.resources import files

import pytest

PLATFORMS = ("linux-x86_64-cpu", "linux-x86_64-cuda")
_PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def _pins(platform: str) -> dict[str, str]:
    text = (files("tunefleet_compress.locks") / f"{platform}.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(_PIN.fullmatch(line) for line in lines), "exact pins, no local versions"
    return {_name(line): line.partition("==")[2] for line in lines}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_direct_dependency_is_pinned(platform: str) -> None:
    pins = _pins(platform)
    needed = {
        _name(line) for line in distribution("tunefleet-compress").requires or [] if "extra" not in line
    }
    assert needed - {"tunefleet"} <= set(pins)
    assert {"grpcio", "protobuf", "pluggy"} <= set(pins), "what the contract host needs"
    assert not {"tunefleet", "pytest"} & set(pins)


def test_what_these_tests_ran_on_is_what_is_pinned() -> None:
    pins = _pins(PLATFORMS[0])
    for name in ("torch", "transformers", "llmcompressor", "compressed-tensors", "datasets", "tokenizers"):
        assert pins[name] == version(name).partition("+")[0]


def test_platforms_differ_only_where_they_must() -> None:
    cpu, cuda = map(_pins, PLATFORMS)
    assert cuda == cpu
    assert (
        "# resolve-torch-dependencies\n"
        in (files("tunefleet_compress.locks") / "linux-x86_64-cuda.txt").read_text()
    )
