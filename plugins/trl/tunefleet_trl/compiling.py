"""Whether a run compiles its model with torch.compile: only where the job asks for it. Imports no library."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import TunefleetError
from tunefleet_trl.split.options import is_split

__all__ = ["OPTION", "SCHEMA", "compile_arguments", "require_compilable"]

OPTION = "compile"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "backend": {
            "type": "string",
            "enum": ["inductor", "aot_eager", "eager"],
            "description": "What makes code of the graphs: `inductor` (the default) writes kernels; "
            "`aot_eager` and `eager` run the traced graphs as they are, to find what cannot be traced.",
        },
        "mode": {
            "type": "string",
            "enum": ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"],
            "description": "How long inductor looks for faster kernels.",
        },
    },
    "additionalProperties": False,
    "description": "Compile the model with torch.compile; `{}` takes inductor. Left out: never. The first "
    "steps wait for it, and rows of another shape may wait again.",
}


def compile_arguments(spec: JobSpec) -> dict[str, Any]:
    """Return what the library is told; nothing unless the job asks for it."""
    asked = _asked(spec)
    if asked is None:
        return {}
    backend = str(asked.get("backend", "inductor"))
    arguments: dict[str, Any] = {"torch_compile": True, "torch_compile_backend": backend}
    if backend == "inductor" and "mode" in asked:
        arguments["torch_compile_mode"] = asked["mode"]
    return arguments


def require_compilable(spec: JobSpec) -> None:
    """Refuse to compile what was not tried so.

    Raises:
        TunefleetError: FIELD_INVALID naming the option.
    """
    asked = _asked(spec)
    if asked is None:
        return
    field = f"backend_options.{OPTION}"
    if is_split(spec):
        raise TunefleetError.field(field, "cannot be combined with sharding; leave one out")
    if "mode" in asked and asked.get("backend", "inductor") != "inductor":
        raise TunefleetError.field(f"{field}.mode", "is for the backend inductor; leave it out")


def _asked(spec: JobSpec) -> dict[str, Any] | None:
    if OPTION not in spec.backend_options:
        return None
    return json_format.MessageToDict(spec.backend_options)[OPTION]
