"""The rank of a backend that writes quantisation formats and does nothing else."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import ClassVar

from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend.contract import RunContext
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["ExporterRank", "go_quiet_and_offline"]


def go_quiet_and_offline(**further: str) -> None:
    """Keep libraries from the network and from drawing on the terminal; call before importing them.

    Models are local folders, so nobody else is to be asked. The settings pass on to processes
    that are started later; `further` ones are of a single library.
    """
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_NO_ADVISORY_WARNINGS="1",
        TRANSFORMERS_VERBOSITY="error",
        TOKENIZERS_PARALLELISM="false",  # a pool would only warn about forks
        **further,
    )


class ExporterRank(ABC):
    """Takes `export` orders for its formats and refuses everything else by name. Loads no library.

    Example:
        class GgufRank(ExporterRank):
            backend, formats = "gguf", ("gguf",)

            def write(self, context: RunContext) -> RunOutput:
                from tunefleet_gguf.export import export

                return export(context)
    """

    backend: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        go_quiet_and_offline()

    def warm(self) -> None:  # noqa: B027 (no work is the whole of it)
        """Import nothing: the heavy parts of an export are processes of their own."""

    def run(self, context: RunContext) -> RunOutput:
        """Work on an order; see the contract."""
        export = context.order.resolved_spec.spec.export
        asked = export.quantize.format if export.WhichOneof("form") == "quantize" else "merge"
        if asked not in self.formats:
            written = ", ".join(f"'{name}'" for name in self.formats)
            raise TunefleetError.field(
                "export.quantize.format", f"this backend does not write '{asked}': it writes {written} alone"
            )
        return self.write(context)

    @abstractmethod
    def write(self, context: RunContext) -> RunOutput:
        """Write the model of an order in one of the formats."""

    def audit(self, order: AuditOrder) -> AuditResult:
        """Refuse: it reads no rows."""
        raise TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED,
            f"The backend '{self.backend}' does not have the capability INSPECT.",
            hint="Audit rows with the backend that trains.",
            metadata={"backend": self.backend, "capability": "INSPECT"},
        )
