"""The manifest: what this engine is and can do. Does not import sglang."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_sglang.command import SETTINGS

__all__ = ["tunefleet_backends"]

_FORMATS = ("awq", "compressed-tensors", "fp8", "gptq", "mxfp4", "nvfp4")
_BITSANDBYTES = ("nf4", "fp4", "int8")
"""Formats that SGLang loads with bitsandbytes beside it, which its own requirements leave out."""


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the sglang engine."""
    return (
        backend_manifest(
            name="sglang",
            distribution="tunefleet-sglang",
            summary="Serves with SGLang: many adapters in one batch, loaded while it runs, on several GPUs.",
            capabilities=[
                Capability.CAPABILITY_SERVE,
                Capability.CAPABILITY_LORA_HOTSWAP,
                Capability.CAPABILITY_CONTRACT_CHECK,
            ],
            device_kinds=["cuda"],
            engine_entry="tunefleet_sglang.driver:SglangDriver",
            served_formats=[*_FORMATS, *(_BITSANDBYTES if find_spec("bitsandbytes") else ())],
            engine_settings=SETTINGS,
        ),
    )
