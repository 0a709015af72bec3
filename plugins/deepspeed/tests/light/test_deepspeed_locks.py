"""The locks are trl's and what DeepSpeed adds: both run the same trainer."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

PLATFORMS = ("linux-x86_64-cpu", "linux-x86_64-cuda")
ADDED = {"deepspeed", "einops", "hjson", "msgpack", "ninja", "py-cpuinfo"}
LEFT_OUT = {"bitsandbytes", "llguidance"}
"""Quantised bases cannot be split, and no engine is there whose answers would be held to a form."""


def _pins(package: str, platform: str) -> dict[str, str]:
    text = (files(f"{package}.locks") / f"{platform}.txt").read_text()
    return dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_lock_is_trls_and_deepspeed(platform: str) -> None:
    ours, trl = _pins("tunefleet_deepspeed", platform), _pins("tunefleet_trl", platform)
    assert ours.keys() - trl.keys() == ADDED
    assert trl.keys() - ours.keys() == LEFT_OUT
    assert {name: ours[name] for name in trl.keys() & ours.keys()} == {
        name: version for name, version in trl.items() if name not in LEFT_OUT
    }


def test_it_builds_on_the_plugin_whose_trainer_it_runs() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "tunefleet-trl" in project["dependencies"]
