"""What this distribution offers."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core.backend import backend_manifest
from tunefleet_core.plugins.hookspecs import hookimpl

__all__ = ["tunefleet_backends"]

_SECONDS = {"type": "number", "minimum": 0, "maximum": 3600}
_OPTIONS_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "step_seconds": {**_SECONDS, "description": "How long a step takes. Default 0.01."},
        "load_seconds": {**_SECONDS, "description": "How long loading takes. Default 0."},
        "save_seconds": {**_SECONDS, "description": "How long writing a checkpoint takes. Default 0."},
        "checkpoint_bytes": {"type": "integer", "minimum": 0, "description": "Ballast per checkpoint."},
        "fail_at_step": {"type": "integer", "minimum": 1, "description": "Fail there, on every attempt."},
        "exit_at_step": {"type": "integer", "minimum": 1, "description": "Exit there without a word."},
        "refuses": {
            "type": "boolean",
            "default": False,
            "description": "Make an adapter for which the engine answers every request with a status of 500.",
        },
        "stubborn": {
            "type": "boolean",
            "description": "Ignore TERM, and start a child in a session of its own that ignores it too.",
        },
    },
}


@hookimpl
def tunefleet_backends() -> Sequence[BackendManifest]:
    """Return the one backend: trains and serves."""
    return [
        backend_manifest(
            name="echo",
            distribution="tunefleet-echo",
            summary="A deterministic fake: trains in under a second, answers what it was asked.",
            capabilities=[
                Capability.CAPABILITY_TRAIN,
                Capability.CAPABILITY_SFT,
                Capability.CAPABILITY_LORA,
                Capability.CAPABILITY_CHECKPOINT_RESUME,
                Capability.CAPABILITY_CHECKPOINT_ON_REQUEST,
                Capability.CAPABILITY_MERGE,
                Capability.CAPABILITY_PREFLIGHT,
                Capability.CAPABILITY_SERVE,
                Capability.CAPABILITY_LORA_HOTSWAP,
            ],
            device_kinds=["cpu", "cuda", "metal"],
            rank_entry="tunefleet_echo.rank:EchoRank",
            engine_entry="tunefleet_echo.engine:EchoEngine",
            options_schema=_OPTIONS_SCHEMA,
            keep_warm=True,
        )
    ]
