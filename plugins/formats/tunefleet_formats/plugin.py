"""The formats, as the hook returns them."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet_core.catalog.format import Format
from tunefleet_core.plugins import hookimpl
from tunefleet_formats.awq import AWQ
from tunefleet_formats.compressed_tensors import COMPRESSED_TENSORS
from tunefleet_formats.fp4 import FP4
from tunefleet_formats.fp8 import FP8
from tunefleet_formats.gguf import GGUF
from tunefleet_formats.gptq import GPTQ
from tunefleet_formats.int8 import INT8
from tunefleet_formats.mlx import MLX
from tunefleet_formats.mxfp4 import MXFP4
from tunefleet_formats.nf4 import NF4
from tunefleet_formats.nvfp4 import NVFP4

__all__ = ["FORMATS", "tunefleet_formats"]

FORMATS: tuple[Format, ...] = (
    NF4,
    FP4,
    INT8,
    AWQ,
    GPTQ,
    FP8,
    MXFP4,
    NVFP4,
    COMPRESSED_TENSORS,
    GGUF,
    MLX,
)


@hookimpl
def tunefleet_formats() -> Sequence[Format]:
    """Return every format of this distribution."""
    return FORMATS
