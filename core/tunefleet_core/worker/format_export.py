"""How every export in a format begins and ends: whole weights, their record, room, an output or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import CONTRACT_FILE, TrainServeContract, read_contract
from tunefleet_core.resolve import own_dtype
from tunefleet_core.worker.merge_first import whole_weights
from tunefleet_core.worker.stages import stage_teller

__all__ = ["FormatExport", "format_export"]

_WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatExport:
    """An export under way.

    Attributes:
        context: The run.
        source: The whole model, as safetensors weights; read only.
        contract: What training recorded of it.
        scratch: For what is only on the way; gone in the end.
        folder: The output, kept if nothing raises.
        told: Call it with the number of stages that are done.
    """

    context: RunContext
    source: Path
    contract: TrainServeContract
    scratch: Path
    folder: Path
    told: Callable[[int], None]

    @property
    def stored_dtype(self) -> str:
        """Number type of the whole weights: engines compute in it, whatever training computed in."""
        return own_dtype(self.context.order.resolved_spec.base)

    def require_disk(self, form: str, need_bytes: int) -> None:
        """Refuse early, with figures, what will not fit.

        Raises:
            TunefleetError: DISK_FULL.
        """
        free = shutil.disk_usage(self.scratch).free
        if free < need_bytes:
            raise TunefleetError(
                Reason.DISK_FULL,
                f"Writing this model as {form} takes {need_bytes:,} bytes on the way; "
                f"the disk at {self.scratch.parent} has {free:,} free.",
                hint="Free space on this disk, then export again.",
                metadata={"needed_bytes": str(need_bytes), "free_bytes": str(free)},
            )

    def copy_beside(self, *, but: Collection[str] = ()) -> None:
        """Keep what engines and people look for beside the weights: config, tokenizer, template.

        Args:
            but: Names of files that the format writes itself.
        """
        for file in sorted(self.source.iterdir()):
            if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name not in (CONTRACT_FILE, *but):
                shutil.copyfile(file, self.folder / file.name)


@contextmanager
def format_export(context: RunContext, stages: Sequence[str]) -> Generator[FormatExport]:
    """Yield an export whose adapter is merged; tell the first and the last of its stages.

    Raises:
        RunStopped: the run was asked to stop; nothing is kept.
        TunefleetError: BASE_INVALID, and what the merging backend says.
    """
    work_dir = Path(context.order.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    told = stage_teller(context, stages)
    told(0)
    with (
        whole_weights(context) as source,
        tempfile.TemporaryDirectory(dir=work_dir, prefix="export-") as scratch,
        context.writing_output() as folder,
    ):
        yield FormatExport(
            context=context,
            source=source,
            contract=read_contract(source),
            scratch=Path(scratch),
            folder=folder,
            told=told,
        )
    told(len(stages))
