"""Orders to export; tiny models come from an environment that has torch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.catalog.base import read_base
from tunefleet_core.testing.memory_context import MemoryContext

__all__ = ["MODEL_TYPES", "MemoryContext", "build_model", "order"]

MODEL_TYPES = ("qwen3", "llama")
_BUILDER = Path(__file__).resolve().parents[2] / "gguf" / "tests" / "tiny_trained.py"


def build_model(folder: Path, *, model_type: str, dtype: str = "float32") -> Path:
    """Write a model whose weights moved from others, and the record of that, measured by torch."""
    python = os.environ.get("TUNEFLEET_TEST_TRL_PYTHON")
    if not python:
        pytest.skip("models are made by the trl environment: name its python in TUNEFLEET_TEST_TRL_PYTHON")
    command = [python, str(_BUILDER), str(folder), "--class", model_type, "--dtype", dtype]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def order(model: Path, work_dir: Path, *, variant: str = "4bit") -> RunOrder:
    """Return an order to export a whole model."""
    resolved = ResolvedSpec(base=read_base(model))
    resolved.spec.name = "small"
    resolved.spec.backend = "mlx"
    resolved.spec.export.model.model = "models/tiny"
    resolved.spec.export.quantize.format = "mlx"
    resolved.spec.export.quantize.variant = variant
    return RunOrder(
        run="small-1", attempt=1, resolved_spec=resolved, work_dir=str(work_dir), device_ids=["cpu-0"],
        threads=1,
    )  # fmt: skip
