"""The manifest: what this engine is and can do. Does not import vllm."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_vllm.command import SETTINGS

__all__ = ["tunefleet_backends"]

_FORMATS = ("awq", "compressed-tensors", "fp8", "gptq", "mxfp4", "nvfp4")
_BITSANDBYTES = ("nf4", "fp4", "int8")
"""Formats that vLLM loads with a plugin of its own beside it."""


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the vllm engine."""
    return (
        backend_manifest(
            name="vllm",
            distribution="tunefleet-vllm",
            summary="Serves with vLLM: many adapters in one batch, loaded while it runs, on several GPUs.",
            capabilities=[
                Capability.CAPABILITY_SERVE,
                Capability.CAPABILITY_LORA_HOTSWAP,
                Capability.CAPABILITY_CONTRACT_CHECK,
            ],
            device_kinds=["cuda", "cpu"],
            engine_entry="tunefleet_vllm.driver:VllmDriver",
            served_formats=[*_FORMATS, *(_BITSANDBYTES if find_spec("vllm_bnb_plugin") else ())],
            engine_settings=SETTINGS,
        ),
    )
