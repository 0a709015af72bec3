"""Run the tests in every environment they need and close with one line of totals.

    python tests/run_all.py          what a newcomer runs, under 10 minutes on two cores
    python tests/run_all.py --all    the slow ones and more seeds too

Light tests run in the environment of the services. Tests of backends run in the
backend's own environment, as the backend does. Tests of whole fleets mostly wait for the
processes they start and kill, so all the others run beside them. A few tests that failed
beside others run once more, alone: what fails again is red, what passes is named as unstable.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".tools" / "pytest"
FLEETS = ("chaos", "contract", "docs")
"""Folders of tests that start fleets of processes and kill them."""
BESIDE = "fleets"
APART = ("compress", "deepspeed", "gguf", "mlx", "tracking", "vllm")
"""Plugins with an environment that few tests need: left to `--all`, and to `--only` with its name."""
LONGEST_FIRST = ("fleets", "trl", "deepspeed", "e2e", "light")
_AT_ONCE = 3
"""Suites at a time: one of them waits for its fleets most of the time, so two have two cores."""
MOST_AGAIN = 5
"""So many failures may be the company they ran in; more are a fault, and nothing runs again."""
TEST_REQUIREMENTS = (
    "hypothesis>=6.100",
    "openai>=2",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Tests that run in one environment."""

    name: str
    python: str
    paths: tuple[str, ...]
    environment: dict[str, str]
    config: str = "pyproject.toml"
    """Each plugin has pytest's settings in its own project file."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sums over the suites."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: Totals) -> None:
        """Add the figures of another suite."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped


@dataclass(slots=True, kw_only=True)
class Result:
    """How one suite went.

    Attributes:
        failed: Node ids of what failed, as pytest takes them. Empty with a red suite: the runner broke.
    """

    suite: Suite
    is_green: bool
    totals: Totals = field(default_factory=Totals)
    failed: tuple[str, ...] = ()


def backend_python(name: str) -> str:
    """Return the interpreter of an installed backend's environment."""
    index = Path(os.environ.get("TUNEFLEET_ENVS", ROOT / ".envs")) / "index.json"
    try:
        return str(json.loads(index.read_text())["environments"][name]["python"])
    except (FileNotFoundError, KeyError):
        sys.exit(f"Backend '{name}' is not installed. Run `make setup`.")


def test_tools() -> str:
    """Install the test runner beside the backend's environment, not into it; return its folder."""
    if not (TOOLS / ".complete").exists():
        command = [backend_python("trl"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", str(TOOLS), *TEST_REQUIREMENTS], check=True)
        (TOOLS / ".complete").touch()
    return str(TOOLS)


def suite_apart(name: str) -> Suite:
    """Return the tests of a plugin that writes formats, with a test runner of their own.

    The other one brings libraries in versions that this environment does not have.
    """
    python, tools = backend_python(name), ROOT / ".tools" / "pytest-alone"
    if not (tools / ".complete").exists():
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", str(tools), "pytest>=8.3"], check=True)
        (tools / ".complete").touch()
    return Suite(
        name=name,
        python=python,
        paths=(f"plugins/{name}/tests",),
        environment={
            "PYTHONPATH": str(tools),
            "OMP_NUM_THREADS": "1",
            "TUNEFLEET_TEST_TRL_PYTHON": backend_python("trl"),  # makes models where there is no torch
        },
        config=f"plugins/{name}/pyproject.toml",
    )


def suites() -> list[Suite]:
    """Return what there is to run."""
    trl = backend_python("trl")
    data = (str(ROOT / "plugins" / name) for name in ("families", "formats"))
    search = os.pathsep.join((test_tools(), *data))
    heavy = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    folders = sorted(path.name for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py")))
    light = {"python": sys.executable, "environment": {"TUNEFLEET_TEST_TRL_PYTHON": trl}}
    return [
        Suite(name=BESIDE, paths=tuple(f"tests/{name}" for name in FLEETS), **light),
        Suite(name="e2e", paths=("tests/e2e",), **light),
        Suite(
            name="light",
            paths=(
                *(f"tests/{name}" for name in folders if name not in (*FLEETS, "e2e")),
                "plugins/echo/tests",
                "plugins/families/tests",
                "plugins/formats/tests",
                "plugins/deepspeed/tests/light",
                "plugins/gguf/tests/light",
                "plugins/mlx/tests/light",
                "plugins/vllm/tests/light",
            ),
            **light,
        ),
        *(
            Suite(
                name=name,
                python=trl,
                paths=tuple(f"plugins/{name}/tests/{part}" for part in parts),
                environment=heavy,
                config=f"plugins/{name}/pyproject.toml",
            )
            # Of the families what needs a model or a tokenizer: the rest runs where they are installed.
            for name, parts in (
                ("trl", ("",)),
                ("embedded", ("",)),
                ("formats", ("test_real_bitsandbytes.py", "test_real_embedded.py")),
                (
                    "families",
                    (
                        "test_render.py",
                        "test_templates.py",
                        "test_tools_in_templates.py",
                        "test_deepseek_v4.py",
                        "test_models.py",
                    ),
                ),
            )
        ),
    ]


def run(suite: Suite, *, everything: bool, output: IO[str] | None = None, only: Sequence[str] = ()) -> Result:
    """Run one suite, or `only` some tests of it. `output` takes what it prints."""
    paths = only or [path for path in suite.paths if (ROOT / path).exists()]
    with tempfile.TemporaryDirectory() as scratch:
        report, cache = Path(scratch) / "report.xml", Path(scratch) / "cache"
        command = [
            suite.python,
            "-m",
            "pytest",
            "-c",
            str(ROOT / suite.config),
            "--rootdir",
            str(ROOT),
            *paths,
            "--junitxml",
            str(report),
            "-q",
            "--durations=10",
            "--durations-min=5",
            "-o",
            f"cache_dir={cache}",
        ]
        if not everything:
            command += ["-m", "not slow"]
        start = time.monotonic()
        code = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **suite.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            check=False,
        ).returncode
        seconds = time.monotonic() - start
        print(f"== {suite.name}: exit {code}, {seconds:.0f} s", file=output or sys.stdout, flush=True)
        if not report.exists():
            return Result(suite=suite, is_green=False, totals=Totals(failed=1))
        return Result(suite=suite, is_green=code == 0, totals=_figures(report), failed=_failed(cache))


def _figures(report: Path) -> Totals:
    totals = Totals()
    for item in ElementTree.parse(report).getroot().iter("testsuite"):
        failed = int(item.get("failures", 0)) + int(item.get("errors", 0))
        skipped = int(item.get("skipped", 0))
        passed = int(item.get("tests", 0)) - failed - skipped
        totals.add(Totals(passed=passed, failed=failed, skipped=skipped))
    return totals


def _failed(cache: Path) -> tuple[str, ...]:
    """Return what pytest notes of the tests that failed."""
    try:
        return tuple(json.loads((cache / "v" / "cache" / "lastfailed").read_text()))
    except FileNotFoundError:
        return ()


def run_beside(suites: list[Suite], *, everything: bool) -> list[Result]:
    """Run suites three at a time. The fleets show how far they are, the others what they said at the end."""
    printing = Lock()

    def one(suite: Suite) -> Result:
        if suite.name == BESIDE:
            return run(suite, everything=everything)
        with tempfile.TemporaryFile("w+") as output:
            result = run(suite, everything=everything, output=output)
            output.seek(0)
            with printing:
                print()
                shutil.copyfileobj(output, sys.stdout)
                sys.stdout.flush()
        return result

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as lanes:
        return list(lanes.map(one, suites))


def run_again_alone(results: list[Result], *, everything: bool) -> None:
    """Let the few tests that failed beside others show whether they fail alone, and name them."""
    red = [result for result in results if not result.is_green]
    if not red or not all(result.failed and all(result.failed) for result in red):
        return
    if sum(len(result.failed) for result in red) > MOST_AGAIN:
        return
    for result in red:
        print(f"\n== {result.suite.name}: again, alone: {', '.join(result.failed)}", flush=True)
        again = run(result.suite, everything=everything, only=result.failed)
        unstable = [name for name in result.failed if name not in again.failed]
        if not again.is_green and not again.failed:  # the runner itself broke
            continue
        for name in unstable:
            print(f"UNSTABLE {name}: failed beside others, passed alone", flush=True)
        result.totals.failed -= len(unstable)
        result.totals.passed += len(unstable)
        result.is_green = again.is_green


def main() -> None:
    """Run every suite, then say how it went in one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="slow tests and more seeds too")
    parser.add_argument("--only", help="name of one suite")
    arguments = parser.parse_args()
    if arguments.all:
        os.environ["TUNEFLEET_TEST_SEEDS"] = os.environ.get("TUNEFLEET_TEST_SEEDS", "all")
    apart = APART if arguments.all else ()
    if arguments.only:  # what others need is not asked for
        apart = tuple(name for name in APART if name == arguments.only)
    chosen = [suite for suite in suites() if arguments.only in (None, suite.name)]
    chosen += map(suite_apart, apart)
    order = {name: number for number, name in enumerate(LONGEST_FIRST)}
    chosen.sort(key=lambda suite: order.get(suite.name, len(order)))
    results = run_beside(chosen, everything=arguments.all)
    run_again_alone(results, everything=arguments.all)
    totals = Totals()
    for result in results:
        totals.add(result.totals)
    print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped", flush=True)
    sys.exit(0 if all(result.is_green for result in results) and totals.passed else 1)


if __name__ == "__main__":
    main()
