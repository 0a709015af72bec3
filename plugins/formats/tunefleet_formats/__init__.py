"""Quantisation formats: one module each, nothing that needs torch."""

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

__all__ = [
    "AWQ",
    "COMPRESSED_TENSORS",
    "FP4",
    "FP8",
    "GGUF",
    "GPTQ",
    "INT8",
    "MLX",
    "MXFP4",
    "NF4",
    "NVFP4",
]
