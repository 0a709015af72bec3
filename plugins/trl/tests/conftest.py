"""The base and a trained adapter, made once: tests read them and never write into them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the models are tiny, the cores are shared
sys.path.insert(0, str(Path(__file__).resolve().parent))

import trl_lab as lab  # found through the line above

from tunefleet_trl.rank import TrlRank  # reads the environment set above


@pytest.fixture(scope="session")
def warm() -> None:
    """Imports done and kept from the garbage collector, as in the process that a run gets.

    Every run collects garbage; among all that the libraries leave in memory that takes longer than the run.
    """
    TrlRank().warm()


@pytest.fixture(scope="session")
def base(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Qwen3 with random weights."""
    return lab.build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> lab.MemoryContext:
    """A finished run that has learned the colours."""
    return lab.run_colours(base, tmp_path_factory.mktemp("trained"), lab.train_spec(steps=60, dropout=0.0))


@pytest.fixture
def rank() -> TrlRank:
    """A rank that has not been warmed."""
    return TrlRank()
