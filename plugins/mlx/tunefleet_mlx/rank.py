"""The rank: what the worker runs. It loads no library itself; each part of an export is a process."""

from __future__ import annotations

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import ExporterRank, RunContext

__all__ = ["MlxRank"]


class MlxRank(ExporterRank):
    """Writes models in MLX's format."""

    backend, formats = "mlx", ("mlx",)

    def write(self, context: RunContext) -> RunOutput:
        """Write it; see `export.py`."""
        from tunefleet_mlx.export import export

        return export(context)
