"""Where a run computes, and in which numbers: on Metal where the run was given it, else on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["Hardware", "compute_on", "prepare_hardware"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Where a run computes: `cpu` or `metal`, and the number type (`float32`, `bfloat16`)."""

    kind: str
    dtype: str


def compute_on(device_kind: str) -> None:
    """Use a kind of device for everything that follows in this process: `cpu` or `metal`."""
    import mlx.core as mx

    if device_kind == "cpu":  # elsewhere the library's own choice is the right one
        mx.set_default_device(mx.cpu)
        # Fusing kernels calls a C++ compiler there, for a minute, and gains little.
        mx.disable_compile()


def prepare_hardware(order: RunOrder) -> Hardware:
    """Choose device and number type of a run, before the first array.

    Raises:
        TunefleetError: BACKEND_FAILED if the run was given a device that this build does not have.
    """
    import mlx.core as mx

    given = [device for device in order.device_ids if not device.startswith("cpu")]
    if given and not mx.metal.is_available():
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"The run was given {', '.join(given)}, but mlx finds no Metal device.",
            hint="Install this backend on an Apple machine: tunefleet plugins install mlx",
        )
    kind = "metal" if given else "cpu"
    compute_on(kind)
    dtype = order.resolved_spec.spec.train.dtype or ("bfloat16" if kind == "metal" else "float32")
    return Hardware(kind=kind, dtype=dtype)
