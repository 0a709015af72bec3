"""One engine per model family for the whole session: its start costs more than all requests to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # Before torch: more threads are slower on models this small.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine_process import EngineProcess
from tiny_models import make_adapter, make_base

ADAPTERS = ("a", "b", "c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A base with its adapters on disk."""

    family: str
    base: Path
    adapters: dict[str, Path]
    root: Path

    def path(self, model: str) -> Path | None:
        """The adapter's folder, None for the base."""
        return self.adapters.get(model)


def _make_lab(root: Path, family: str) -> Lab:
    base = make_base(root / "base", family)
    # Different ranks, scales and targets: what a mixed batch has to keep apart.
    adapters = {
        "a": make_adapter(base, root / "a", seed=1, r=8, lora_alpha=16),
        "b": make_adapter(base, root / "b", seed=2, r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
        "c": make_adapter(base, root / "c", seed=3, r=16, lora_alpha=8, use_rslora=True),
    }
    return Lab(family=family, base=base, adapters=adapters, root=root)


@pytest.fixture(scope="session")
def qwen_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return _make_lab(tmp_path_factory.mktemp("qwen3"), "qwen3")


@pytest.fixture(scope="session")
def llama_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return _make_lab(tmp_path_factory.mktemp("llama"), "llama")


def _running(lab: Lab) -> Iterator[EngineProcess]:
    with EngineProcess(lab.base, "--served-name", "base", "--max-batch", "16") as engine:
        for name, folder in lab.adapters.items():
            reply = engine.load(name, folder)
            assert reply.status == 200, reply.text
        yield engine


@pytest.fixture(scope="session")
def qwen(qwen_lab: Lab) -> Iterator[EngineProcess]:
    """The Qwen3 base with all its adapters loaded."""
    yield from _running(qwen_lab)


@pytest.fixture(scope="session")
def llama(llama_lab: Lab) -> Iterator[EngineProcess]:
    """The Llama base with all its adapters loaded."""
    yield from _running(llama_lab)
