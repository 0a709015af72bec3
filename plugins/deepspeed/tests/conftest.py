"""A tiny base, made once. Orders, contexts and rank processes are those of trl's tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the models are tiny, the cores are shared
_HERE = Path(__file__).resolve().parent
for folder in (_HERE, _HERE.parents[1] / "trl" / "tests", _HERE.parents[1] / "families"):
    sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def warm() -> None:
    """Imports done and kept from the garbage collector, as in the process that a run gets."""
    from tunefleet_deepspeed.rank import DeepSpeedRank  # not for the light tests, which have no such library

    DeepSpeedRank().warm()


@pytest.fixture(scope="session")
def base(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Qwen3 with random weights."""
    import trl_lab

    return trl_lab.build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tied_base(warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama whose embedding is its head too."""
    import trl_lab

    return trl_lab.build_base(tmp_path_factory.mktemp("tied"), model_type="llama", tie_word_embeddings=True)
