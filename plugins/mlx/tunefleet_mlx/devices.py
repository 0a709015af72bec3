"""Choose where mlx computes: on Metal where the run was given it, else on the CPU."""

from __future__ import annotations

__all__ = ["compute_on"]


def compute_on(device_kind: str) -> None:
    """Use a kind of device for everything that follows in this process: `cpu` or `metal`."""
    import mlx.core as mx

    if device_kind == "cpu":  # elsewhere the library's own choice is the right one
        mx.set_default_device(mx.cpu)
