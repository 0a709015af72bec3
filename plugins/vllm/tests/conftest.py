"""One engine for the whole session, because its start costs more than all requests to it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]  # light tests run where the plugin is not installed

if TYPE_CHECKING:
    from vllm_lab import RunningEngine, Trained


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A base and two adapters that trl trained on it, with their records."""
    from vllm_lab import train

    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def socket_dir() -> Iterator[Path]:
    """A folder for an engine's sockets; pytest's own have names that are too long for a socket below them."""
    with tempfile.TemporaryDirectory(prefix="tf-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def engine(
    trained: Trained, socket_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """The base with both adapters."""
    from vllm_lab import running

    order = trained.order(tmp_path_factory.mktemp("engine"))
    order.socket_dir = str(socket_dir)
    with running(order) as engine:
        for name, folder in trained.adapters.items():
            engine.load(name, folder)
        yield engine
