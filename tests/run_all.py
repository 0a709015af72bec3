"""Run the tests in every environment they need and close with one line of totals.

    python tests/run_all.py          what a newcomer runs, some 10 minutes on two cores
    python tests/run_all.py --all    the slow ones and more seeds too

Light tests run in the environment of the services. Tests of backends run in the
backend's own environment, as the backend does. Tests of whole fleets mostly wait for the
processes they start and kill, so all the others run beside them. Environments that few tests
need are installed meanwhile. A few tests that failed beside others run once more, alone: what
fails again is red, what passes is named as unstable.
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
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".tools" / "pytest"
FLEETS = ("chaos", "contract", "docs")
"""Folders of tests that start fleets of processes and kill them."""
BESIDE = "fleets"
END_TO_END = "e2e"
SERVICES = "integration"
"""Tests of single services, by themselves as long as all other light ones together."""
APART = ("deepspeed", "mlx", "vllm", "compress", "tracking", "gguf", "sglang-on-cpu")
"""Plugins with an environment that few tests need, in the order in which `--all` installs them."""
TESTS_OF = {"sglang-on-cpu": "sglang"}
"""Plugins that exist for the tests of another: what serves on GPUs alone, without its kernels."""
FOR_FLEETS = tuple(name for name in APART if name not in TESTS_OF)
"""What whole fleets run on."""
LONGEST_FIRST = (
    *(BESIDE, SERVICES, "trl", END_TO_END, "light"),
    *("embedded", "compress", "mlx", "vllm", "deepspeed"),
)
ALSO = {"vllm": ("compress",)}
"""What plugins apart load that others write: installed first, if it is to be installed at all."""
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
    """Tests that run in one environment.

    Attributes:
        backend: Whose environment that is; empty: that of the services.
        needs: Backends that have to be installed before the suite begins.
        config: Each plugin has pytest's settings in its own project file.
    """

    name: str
    paths: tuple[str, ...]
    environment: dict[str, str]
    backend: str = ""
    needs: tuple[str, ...] = ()
    config: str = "pyproject.toml"

    @property
    def python(self) -> str:
        """The interpreter that the tests run by."""
        return backend_python(self.backend) if self.backend else sys.executable


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


class Environments:
    """Installs backends, one after another, while suites run that do not need them."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        lane = ThreadPoolExecutor(max_workers=1)
        self._installs: dict[str, Future[str]] = {name: lane.submit(_install, name) for name in names}
        lane.shutdown(wait=False)

    def are_settled(self, names: Iterable[str]) -> bool:
        """Return whether all of these are installed, or have failed to be."""
        return all(self._installs[name].done() for name in names if name in self._installs)

    def failure(self, names: Iterable[str]) -> str:
        """Wait until all of these are settled; return what installers said that failed."""
        return "".join(self._installs[name].result() for name in names if name in self._installs)


def _install(name: str) -> str:
    """Install a backend, unless it is there and no lock has changed; return what was said if it failed."""
    start = time.monotonic()
    done = subprocess.run(
        ["make", "--no-print-directory", f".envs/.{name}-stamp"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"== install {name}: exit {done.returncode}, {time.monotonic() - start:.0f} s", flush=True)
    return f"Installing {name} failed:\n{done.stdout}" if done.returncode else ""


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
    trl, tools = backend_python("trl"), ROOT / ".tools" / "pytest-alone"
    if not (tools / ".complete").exists():
        command = [trl, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", str(tools), "pytest>=8.3"], check=True)
        (tools / ".complete").touch()
    tested = TESTS_OF.get(name, name)
    return Suite(
        name=name,
        backend=name,
        needs=(name, *ALSO.get(name, ())),
        paths=(f"plugins/{tested}/tests",),
        environment={
            "PYTHONPATH": str(tools),
            "OMP_NUM_THREADS": "1",
            "TUNEFLEET_TEST_TRL_PYTHON": trl,  # makes models where there is no torch
        },
        config=f"plugins/{tested}/pyproject.toml",
    )


def suites() -> list[Suite]:
    """Return what there is to run."""
    trl = backend_python("trl")
    data = (str(ROOT / "plugins" / name) for name in ("families", "formats"))
    search = os.pathsep.join((test_tools(), *data))
    heavy = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    folders = sorted(path.name for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py")))
    light = {"TUNEFLEET_TEST_TRL_PYTHON": trl}
    return [
        Suite(name=BESIDE, paths=tuple(f"tests/{name}" for name in FLEETS), environment=light),
        Suite(name=END_TO_END, paths=("tests/e2e",), environment=light, needs=FOR_FLEETS),
        Suite(name=SERVICES, paths=(f"tests/{SERVICES}",), environment=light),
        Suite(
            name="light",
            paths=(
                *(f"tests/{name}" for name in folders if name not in (*FLEETS, END_TO_END, SERVICES)),
                "plugins/echo/tests",
                "plugins/families/tests",
                "plugins/formats/tests",
                "plugins/deepspeed/tests/light",
                "plugins/gguf/tests/light",
                "plugins/mlx/tests/light",
                "plugins/sglang/tests/light",
                "plugins/vllm/tests/light",
            ),
            environment=light,
        ),
        *(
            Suite(
                name=name,
                backend="trl",
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
                        "test_calls_taken_out.py",
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


def run_beside(
    suites: Sequence[Suite], *, everything: bool, environments: Environments | None = None
) -> list[Result]:
    """Run suites three at a time. The fleets show how far they are, the others what they said at the end.

    The first that has what it needs comes next. One whose environment cannot be installed is red.
    """
    installed = environments or Environments()
    waiting, results = list(suites), list[Result]()
    picking, printing = Lock(), Lock()

    def following() -> Suite | None:
        with picking:
            ready = (suite for suite in waiting if installed.are_settled(suite.needs))
            found = next(ready, waiting[0] if waiting else None)
            if found is not None:
                waiting.remove(found)
            return found

    def one(suite: Suite) -> Result:
        if failure := installed.failure(suite.needs):
            with printing:
                print(f"\n== {suite.name}: not run. {failure}", flush=True)
            return Result(suite=suite, is_green=False, totals=Totals(failed=1))
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

    def work() -> None:
        while (suite := following()) is not None:
            results.append(one(suite))

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as lanes:
        for lane in [lanes.submit(work) for _ in range(_AT_ONCE)]:
            lane.result()
    return results


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
    environments = Environments(apart if not arguments.only else ())
    if arguments.only:  # it runs with what is installed
        apart = tuple(name for name in APART if name == arguments.only)
    chosen = [suite for suite in suites() if arguments.only in (None, suite.name)]
    chosen += map(suite_apart, apart)
    order = {name: number for number, name in enumerate(LONGEST_FIRST)}
    chosen.sort(key=lambda suite: order.get(suite.name, len(order)))
    results = run_beside(chosen, everything=arguments.all, environments=environments)
    run_again_alone(results, everything=arguments.all)
    totals = Totals()
    for result in results:
        totals.add(result.totals)
    print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped", flush=True)
    sys.exit(0 if all(result.is_green for result in results) and totals.passed else 1)


if __name__ == "__main__":
    main()
