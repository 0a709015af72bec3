"""The locks name every package this environment needs, at one version on every platform."""

from __future__ import annotations

import re
from importlib.metadata import distribution, version
from importlib.resources import files

import pytest

PLATFORMS = ("linux-x86_64-cpu", "linux-x86_64-cuda", "macos-arm64")
_PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def _pins(platform: str) -> dict[str, str]:
    text = (files("tunefleet_trl.locks") / f"{platform}.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(_PIN.fullmatch(line) for line in lines), "exact pins, no local versions"
    return {_name(line): line.partition("==")[2] for line in lines}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_direct_dependency_is_pinned(platform: str) -> None:
    pins = _pins(platform)
    needed = {_name(line) for line in distribution("tunefleet-trl").requires or [] if "extra" not in line}
    assert needed - {"tunefleet"} <= set(pins)
    assert "aiohttp" in pins, "the embedded engine shares this environment"
    assert not {"tunefleet", "pytest", "openai"} & set(pins)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_these_tests_ran_on_is_what_is_pinned(platform: str) -> None:
    pins = _pins(platform)
    for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers"):
        assert pins[name] == version(name).partition("+")[0]


def test_platforms_differ_only_where_they_must() -> None:
    cpu, cuda, mac = map(_pins, PLATFORMS)
    assert cuda == cpu
    # Without it the backend does not declare QLORA_NF4; its macOS build has not been tried here.
    assert set(cpu) - set(mac) == {"bitsandbytes"}
    assert {name: cpu[name] for name in mac} == mac
    text = (files("tunefleet_trl.locks") / "linux-x86_64-cuda.txt").read_text()
    assert "# resolve-torch-dependencies\n" in text
