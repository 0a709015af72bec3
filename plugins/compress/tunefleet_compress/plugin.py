"""What this distribution offers. Imports nothing heavy: it is asked in every listing."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_compress.recipes import FORMATS
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl

__all__ = ["tunefleet_backends"]


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the compress backend."""
    return (
        backend_manifest(
            name="compress",
            distribution="tunefleet-compress",
            summary="Writes models in AWQ, GPTQ, FP8, MXFP4 and NVFP4 with llmcompressor.",
            capabilities=[Capability.CAPABILITY_QUANTIZE],
            device_kinds=["cpu", "cuda"],
            rank_entry="tunefleet_compress.rank:CompressRank",
            options_schema={
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {},
                "additionalProperties": False,
            },
            exported_formats=list(FORMATS),
        ),
    )
