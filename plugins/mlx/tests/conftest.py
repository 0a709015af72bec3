"""Models and their records, made once: tests read them and never write into them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, the cores are shared
sys.path.insert(0, str(Path(__file__).resolve().parent))

import mlx_lab as lab  # found through the line above


@pytest.fixture(scope="session", params=lab.MODEL_TYPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model with random weights and the record of its training; one of each class."""
    return lab.build_model(tmp_path_factory.mktemp(request.param), model_type=request.param)


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of one class."""
    return lab.build_model(tmp_path_factory.mktemp("qwen3"), model_type="qwen3")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bases `qwen3` and `llama`, tiny and random; the llama's embedding is its head too."""
    import train_lab

    folder = tmp_path_factory.mktemp("bases")
    train_lab.trl_side("bases", folder)
    return folder
