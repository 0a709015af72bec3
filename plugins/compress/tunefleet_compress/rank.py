"""The rank: what the worker runs. Light to import, and it stays light."""

from __future__ import annotations

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_compress.recipes import FORMATS
from tunefleet_core.backend import ExporterRank, RunContext, go_quiet_and_offline

__all__ = ["CompressRank"]


class CompressRank(ExporterRank):
    """Writes models in the formats of llmcompressor."""

    backend, formats = "compress", tuple(FORMATS)

    def __init__(self) -> None:
        # Else it tells every layer.
        go_quiet_and_offline(LLM_COMPRESSOR_LOG_LEVEL="WARNING", TQDM_DISABLE="1")

    def write(self, context: RunContext) -> RunOutput:
        """Write it; see `export.py`."""
        from tunefleet_compress.export import export

        return export(context)
