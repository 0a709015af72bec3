"""The committed names of engines: whole, and equal to what an installed engine says."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from engine_names import ENGINES, registry_file, registry_text, variable  # found through conftest.py

from tunefleet_core.catalog.engines import engine_registries


def test_each_engine_has_a_file_that_says_what_was_read() -> None:
    found = engine_registries()
    assert sorted(found) == sorted(ENGINES)
    for registry in found.values():
        assert registry.version[0].isdecimal()
        assert registry.read_by in ("import", "ast")
        assert registry.tool_parsers


@pytest.mark.parametrize("engine", ENGINES)
def test_lists_are_sorted_and_without_doubles(engine: str) -> None:
    values = json.loads(registry_file(engine).read_text())
    assert registry_file(engine).read_text() == json.dumps(values, indent=1) + "\n", "written by machine"
    lists: Sequence[list[object]] = [value for value in values.values() if isinstance(value, list)]
    assert lists
    for items in lists:
        assert items == sorted(set(items), key=lambda item: (type(item).__name__, item))


def test_what_takes_adapters_is_among_what_runs() -> None:
    vllm = engine_registries()["vllm"]
    assert set(vllm.lora_architectures) < set(vllm.architectures)
    assert set(vllm.unread_architectures) < set(vllm.architectures)
    assert {8, 16, 64} <= set(vllm.lora_ranks)


def test_sglang_has_no_parser_of_tool_calls_named_qwen3() -> None:
    """A name that people guess, and that the engine refuses."""
    assert "qwen3" not in engine_registries()["sglang"].tool_parsers
    assert "qwen3" in engine_registries()["sglang"].reasoning_parsers


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_installed_engine_still_says_so(engine: str) -> None:
    python = os.environ.get(variable(engine))
    if not python:
        pytest.skip(f"{variable(engine)} does not name a Python that has {engine}")
    assert Path(python).exists()
    assert registry_file(engine).read_text() == registry_text(engine, python), (
        "run python tests/engines/engine_names.py and see what families and matrix make of it"
    )
