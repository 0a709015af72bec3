"""The rank: what the worker runs. It loads no library itself; each part of an export is a process."""

from __future__ import annotations

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import ExporterRank, RunContext

__all__ = ["GgufRank"]


class GgufRank(ExporterRank):
    """Writes models as GGUF."""

    backend, formats = "gguf", ("gguf",)

    def write(self, context: RunContext) -> RunOutput:
        """Write it; see `export.py`."""
        from tunefleet_gguf.export import export

        return export(context)
