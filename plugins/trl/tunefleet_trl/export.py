"""An export run: a trained adapter written in another form. The rank's process has loaded nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import TunefleetError
from tunefleet_core.worker.stages import stage_teller
from tunefleet_trl.export_mxfp4 import STAGES as ROUNDING_STAGES
from tunefleet_trl.export_mxfp4 import export_mxfp4
from tunefleet_trl.loading import prepare_hardware
from tunefleet_trl.merging import STAGES, Merged, merge_adapter, merge_in_own_process

__all__ = ["adapter_to_merge", "export", "merge_after_training"]


def export(context: RunContext) -> RunOutput:
    """Run an export order.

    Raises:
        RunStopped: the run was asked to stop; nothing is kept.
        TunefleetError: BASE_INVALID, DISK_FULL, NUMBERS_MISMATCH, FIELD_INVALID,
            CAPABILITY_UNSUPPORTED.
    """
    spec = context.order.resolved_spec
    form = spec.spec.export.WhichOneof("form")
    prepare_hardware(context.order, dtype="")
    if form == "quantize":
        with context.writing_output() as folder:
            summary = export_mxfp4(context, folder, told=stage_teller(context, ROUNDING_STAGES))
        context.notice(summary, severity="info")
        return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL)
    if form != "merge":
        raise TunefleetError.field("export", f"this backend does not write the form '{form}'")
    if not context.order.adapter_dir:
        raise TunefleetError.field("export.model.model", "names no adapter of the fleet")
    told = stage_teller(context, STAGES)
    with context.writing_output() as folder:
        merged = merge_adapter(
            spec.base, Path(context.order.adapter_dir), folder, dtype=spec.spec.export.merge.dtype, told=told
        )
    _tell(context, merged)
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL)


@contextmanager
def adapter_to_merge(context: RunContext) -> Iterator[Path]:
    """Yield an empty folder for the adapter of a run whose result is the whole model; it is removed."""
    folder = Path(context.order.work_dir) / "adapter-to-merge"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def merge_after_training(context: RunContext, adapter_dir: Path) -> None:
    """Write the whole model as the output of a training run, merged in a process of its own."""
    with context.writing_output() as folder:
        merged = merge_in_own_process(context, adapter_dir, folder)
    _tell(context, merged)


def _tell(context: RunContext, merged: Merged) -> None:
    if merged.remark:
        context.notice(merged.remark, severity="info")
    text = merged.verdict.summary.replace("The engine", "The merged model")
    context.notice(text, severity="info")
