"""Round a GGUF file to a variant. A process of its own: llama.cpp is busy for minutes and hears no stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunefleet_core.worker.aside import serve_aside
from tunefleet_gguf.llama import round_file

__all__ = ["quantize"]


def quantize(source: Path, target: Path, *, file_type: str, threads: int) -> dict[str, Any]:
    """Write `target` and return what is in it.

    Returns:
        `bits_per_weight` over all tensors, and `types`: number of matrices by type.
    """
    round_file(source, target, file_type=file_type, threads=threads)
    import gguf

    types: dict[str, int] = {}
    stored = numbers = 0
    for tensor in gguf.GGUFReader(str(target)).tensors:
        stored += int(tensor.n_bytes)
        numbers += int(tensor.n_elements)
        if len([size for size in tensor.shape if size > 1]) > 1:
            types[tensor.tensor_type.name.lower()] = types.get(tensor.tensor_type.name.lower(), 0) + 1
    return {"bits_per_weight": 8 * stored / max(1, numbers), "types": types}


def _work(task: Mapping[str, Any]) -> Mapping[str, object]:
    return quantize(
        Path(task["source"]), Path(task["target"]), file_type=task["file_type"], threads=task["threads"]
    )


if __name__ == "__main__":
    serve_aside(_work)
