"""A model that was trained once: tests read it and never write into it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the models are tiny, the cores are shared
sys.path.insert(0, str(Path(__file__).resolve().parent))

import compress_lab as lab  # found through the line above

from tunefleet_core.backend import go_quiet_and_offline

go_quiet_and_offline(TQDM_DISABLE="1")  # before transformers, which the lab imports where it needs it


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Qwen3 of two layers that has learned the colours."""
    return lab.trained_model(tmp_path_factory.mktemp("trained"))
