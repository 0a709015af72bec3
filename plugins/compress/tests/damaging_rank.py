"""A rank whose disk is at fault: what was written is altered before it is checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_compress import export
from tunefleet_compress.rank import CompressRank
from tunefleet_core.backend import RunContext
from tunefleet_core.worker.aside import run_aside

__all__ = ["DAMAGE", "DamagingRank"]

DAMAGE = "TUNEFLEET_TEST_DAMAGE"
"""Variable that says how: `scale`, `swapped` or `cut`."""


class DamagingRank(CompressRank):
    """Exports, and damages the file between the two processes."""

    def run(self, context: RunContext) -> RunOutput:
        export.run_aside = _run_and_damage
        return super().run(context)


def _run_and_damage(
    context: RunContext, module: str, task: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    result = run_aside(context, module, task, **options)
    if module == "tunefleet_compress.quantizing":
        _damage(Path(task["target"]) / "model.safetensors", os.environ[DAMAGE])
    return result


def _damage(path: Path, how: str) -> None:
    if how == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return
    tensors = load_file(path)
    if how == "scale":
        name = next(name for name in sorted(tensors) if name.endswith("weight_scale"))
        tensors[name] = tensors[name] * 8
    else:
        one, other = (f"model.layers.{layer}.mlp.up_proj.weight_packed" for layer in (0, 1))
        tensors[one], tensors[other] = tensors[other].clone(), tensors[one].clone()
    save_file(tensors, path, metadata={"format": "pt"})
