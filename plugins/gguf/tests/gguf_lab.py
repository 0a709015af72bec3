"""Orders to export; tiny models come from `tiny_trained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_trained import MODEL_TYPES, build_model

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.catalog.base import read_base
from tunefleet_core.testing.memory_context import MemoryContext

__all__ = ["MODEL_TYPES", "MemoryContext", "build_model", "order"]


def order(model: Path, work_dir: Path, *, variant: str = "q4_k_m", **options: Any) -> RunOrder:
    """Return an order to export a whole model."""
    resolved = ResolvedSpec(base=read_base(model))
    resolved.spec.name = "small"
    resolved.spec.backend = "gguf"
    resolved.spec.export.model.model = "models/tiny"
    resolved.spec.export.quantize.format = "gguf"
    resolved.spec.export.quantize.variant = variant
    resolved.spec.backend_options.update(options)
    return RunOrder(
        run="small-1", attempt=1, resolved_spec=resolved, work_dir=str(work_dir), device_ids=["cpu-0"],
        threads=1,
    )  # fmt: skip
