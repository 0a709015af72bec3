"""The manifest of SGLang as tests run it: what the plugin says, but for the device and the driver."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_sglang import plugin

__all__ = ["tunefleet_backends"]


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the engine of tests."""
    (real,) = plugin.tunefleet_backends()
    return (
        backend_manifest(
            name="sglang-on-cpu",
            distribution="tunefleet-sglang-on-cpu",
            summary="For tests: SGLang without its kernels, on a processor.",
            capabilities=list(real.capabilities),
            device_kinds=[*real.device_kinds, "cpu"],  # last: a fleet takes another engine unless told
            engine_entry="tunefleet_sglang_on_cpu.driver:OnCpuDriver",
            engine_settings=tuple(real.engine_settings),
        ),
    )
