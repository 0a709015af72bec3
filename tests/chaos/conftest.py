"""Fixtures of the chaos tests: a fleet per test, seeds, and a place for measured figures."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chaos_fleet import ChaosFleet

_FEW = 1


def seeds(many: int, few: int = _FEW) -> range:
    """Return the seeds of a test: one, `all` of them, or exactly TUNEFLEET_TEST_SEEDS many."""
    wanted = os.environ.get("TUNEFLEET_TEST_SEEDS", "")
    return range(many if wanted == "all" else int(wanted or few))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for a `seed` its seeds; the failing one is in the test's name."""
    marker = metafunc.definition.get_closest_marker("seeds")
    if marker is not None:
        chosen = seeds(*marker.args, **marker.kwargs)
        metafunc.parametrize("seed", chosen, ids=[f"seed{number}" for number in chosen])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "seeds(many, few=1): run once per seed, see TUNEFLEET_TEST_SEEDS")


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder with a short path: unix sockets do not fit under pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def bare_fleet(root: Path) -> AsyncIterator[ChaosFleet]:
    """A fleet of which nothing is started yet."""
    fleet = ChaosFleet(root)
    try:
        yield fleet
    finally:
        await fleet.close()


@pytest.fixture
async def fleet(bare_fleet: ChaosFleet) -> ChaosFleet:
    """A coordinator and a trainer."""
    await bare_fleet.start_coordinator()
    await bare_fleet.start_trainer()
    return bare_fleet


_figures: dict[str, list[float]] = {}


@pytest.fixture
def measure() -> Callable[[str, float], None]:
    """Note a time in seconds under a name; the session prints the figures as JSON lines."""
    return lambda name, seconds: _figures.setdefault(name, []).append(seconds)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    for name, values in sorted(_figures.items()):
        ordered = sorted(values)
        line = {
            "measured": name,
            "count": len(ordered),
            "median_seconds": round(statistics.median(ordered), 3),
            "max_seconds": round(ordered[-1], 3),
        }
        terminalreporter.write_line(json.dumps(line))
