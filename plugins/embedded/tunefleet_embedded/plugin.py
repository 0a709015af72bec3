"""The manifest: what this backend is and can do. Imports neither torch nor aiohttp."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability, FormatScope
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl

__all__ = ["tunefleet_backends"]


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the embedded engine."""
    return (
        backend_manifest(
            name="embedded",
            distribution="tunefleet-embedded",
            summary="Serves a base and any number of adapters at once, on transformers and PEFT.",
            capabilities=[
                Capability.CAPABILITY_SERVE,
                Capability.CAPABILITY_LORA_HOTSWAP,
                Capability.CAPABILITY_CONTRACT_CHECK,
                Capability.CAPABILITY_ADAPTER_TEMPLATES,
            ],
            device_kinds=["cpu", "cuda", "metal"],
            engine_entry="tunefleet_embedded.driver:EmbeddedDriver",
            served_formats=_loaded_formats(),
            served_scopes=_scopes(),
        ),
    )


def _loaded_formats() -> Sequence[str]:
    """Return the formats of checkpoints that transformers loads with what this environment has."""
    found = ["mxfp4"]  # unpacked by transformers itself
    if find_spec("bitsandbytes"):
        found += ["nf4", "fp4", "int8"]
    if find_spec("compressed_tensors"):
        found += ["compressed-tensors", "fp8", "nvfp4"]
    return found


def _scopes() -> Sequence[FormatScope]:
    """Return the only form of MXFP4 that is unpacked without its library: GPT-OSS as published."""
    if find_spec("compressed_tensors"):
        return ()
    return (FormatScope(format="mxfp4", model_types=["gpt_oss"], carriers=["mxfp4"]),)
