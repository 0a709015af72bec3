"""The locks name every direct dependency, at one version on every platform."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

PLATFORMS = ("linux-x86_64-cpu", "macos-arm64")
_PIN = re.compile(r'([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)( --config-settings="[^"]+")*')
_DIRECT = {"llama-cpp-python", "numpy", "safetensors", "sentencepiece", "torch", "transformers"}


def _pins(platform: str) -> dict[str, str]:
    text = (files("tunefleet_gguf.locks") / f"{platform}.txt").read_text()
    found = [_PIN.fullmatch(line) for line in text.splitlines() if not line.startswith("#")]
    assert all(found), "exact pins, no local versions"
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_direct_dependency_is_pinned(platform: str) -> None:
    pins = _pins(platform)
    assert set(pins) >= _DIRECT
    assert not {"tunefleet", "pytest"} & set(pins)


def test_platforms_differ_only_where_they_must() -> None:
    linux, mac = map(_pins, PLATFORMS)
    assert set(linux) ^ set(mac) <= {"mlx-cpu", "mlx-metal"}
    assert {name: mac[name] for name in set(linux) & set(mac)} == {
        name: linux[name] for name in set(linux) & set(mac)
    }


@pytest.mark.parametrize("platform", PLATFORMS)
def test_files_that_a_build_is_given_lie_beside_the_lock(platform: str) -> None:
    folder = files("tunefleet_gguf.locks")
    given = re.findall(r"\{locks\}/([^\"]+)", (folder / f"{platform}.txt").read_text())
    assert given == ["llama_cpp.cmake"]
    assert (folder / given[0]).is_file()
