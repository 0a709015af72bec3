"""What the runner of all suites says of tests that fail beside others."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SuiteOf = Callable[[str], list[Any]]

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", name="run_all")
def _run_all() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_all", ROOT / "tests" / "run_all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="suite_of")
def _suite_of(run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SuiteOf:
    """Return what runs a suite with one file of tests, in a tree of its own, and gives its results."""
    monkeypatch.setattr(run_all, "ROOT", tmp_path)

    def suite_of(source: str) -> list[Any]:
        return _run_suite(run_all, tmp_path, source)

    return suite_of


def _run_suite(run_all: ModuleType, tmp_path: Path, source: str) -> list[Any]:
    file = tmp_path / "test_made.py"
    file.write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    suite = run_all.Suite(
        name="made",
        paths=(file.name,),
        environment={"MADE": str(tmp_path / "seen")},
        config="pytest.ini",
    )
    return run_all.run_beside([suite], everything=True)


ONCE = """
import os, pathlib
def test_good(): pass
def test_once():
    seen = pathlib.Path(os.environ["MADE"])
    was_there = seen.exists()
    seen.touch()
    assert was_there
"""


def test_what_passes_alone_is_green_and_named(
    run_all: ModuleType, suite_of: SuiteOf, capfd: pytest.CaptureFixture[str]
) -> None:
    results = suite_of(ONCE)
    assert not results[0].is_green
    run_all.run_again_alone(results, everything=True)
    (result,) = results
    assert result.is_green
    assert (result.totals.passed, result.totals.failed) == (2, 0)
    assert "UNSTABLE" in (said := capfd.readouterr().out)
    assert "test_once: failed beside others, passed alone" in said


def test_what_fails_again_stays_red(run_all: ModuleType, suite_of: SuiteOf) -> None:
    results = suite_of("def test_bad(): assert False\ndef test_good(): pass\n")
    run_all.run_again_alone(results, everything=True)
    (result,) = results
    assert not result.is_green
    assert (result.totals.passed, result.totals.failed) == (1, 1)


def test_many_failures_are_not_run_again(
    run_all: ModuleType, suite_of: SuiteOf, capfd: pytest.CaptureFixture[str]
) -> None:
    source = "import pytest\n@pytest.mark.parametrize('n', range(6))\ndef test_bad(n): assert False\n"
    results = suite_of(source)
    capfd.readouterr()
    run_all.run_again_alone(results, everything=True)
    assert "again, alone" not in capfd.readouterr().out
    assert results[0].totals.failed == 6


def test_a_file_that_cannot_be_collected_stays_red(run_all: ModuleType, suite_of: SuiteOf) -> None:
    results = suite_of("raise RuntimeError\n")
    run_all.run_again_alone(results, everything=True)
    assert not results[0].is_green
    assert results[0].totals.failed == 1


def test_what_needs_an_environment_waits_for_it_and_the_others_do_not(
    run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_done = threading.Event()
    begun: list[str] = []

    def run(suite: Any, *, everything: bool, output: Any = None) -> Any:
        begun.append(suite.name)
        if len(begun) == 5:
            others_done.set()
        return run_all.Result(suite=suite, is_green=True)

    def install(name: str) -> str:
        assert others_done.wait(timeout=60)
        return ""

    monkeypatch.setattr(run_all, "run", run)
    monkeypatch.setattr(run_all, "_install", install)
    named = partial(run_all.Suite, paths=(), environment={})
    chosen = [named(name="waits", needs=("far",)), *(named(name=f"ready{number}") for number in range(5))]
    environments = run_all.Environments(["far"])
    results = run_all.run_beside(chosen, everything=True, environments=environments)
    assert begun[-1] == "waits"
    assert len(results) == 6


def test_an_environment_that_cannot_be_installed_makes_its_suite_red(
    run_all: ModuleType, suite_of: SuiteOf, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "Makefile").write_text(".envs/.far-stamp:\n\t@echo no space left; exit 1\n")
    suite = run_all.Suite(name="far", paths=(), environment={}, needs=("far",))
    (result,) = run_all.run_beside([suite], everything=True, environments=run_all.Environments(["far"]))
    assert not result.is_green
    assert result.totals.failed == 1
    assert "no space left" in capfd.readouterr().out
