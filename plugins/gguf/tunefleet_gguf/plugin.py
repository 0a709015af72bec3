"""The manifest: what this backend is and can do. Imports neither torch nor llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl

__all__ = ["tunefleet_backends"]

_OPTIONS_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "pre_tokenizer": {
            "type": "string",
            "description": "llama.cpp's name of the way in which the tokenizer splits text before it "
            "merges bytes, such as `qwen2` or `llama-bpe`. Left out: found in the tokenizer's file. "
            "Either way the file must cut texts into the same tokens, or it is not kept.",
        },
    },
    "additionalProperties": False,
}


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the gguf backend."""
    return (
        backend_manifest(
            name="gguf",
            distribution="tunefleet-gguf",
            summary="Writes GGUF files for llama.cpp, from q2_k to f16, and proves them with llama.cpp.",
            capabilities=[Capability.CAPABILITY_QUANTIZE],
            device_kinds=["cpu"],
            rank_entry="tunefleet_gguf.rank:GgufRank",
            options_schema=_OPTIONS_SCHEMA,
            exported_formats=["gguf"],
        ),
    )
