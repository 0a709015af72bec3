"""What a contract host is told to run: an assignment with everything it names laid out on this host."""

from __future__ import annotations

from pathlib import Path

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.fleet.v1.fleet_pb2 import Assignment
from tunefleet_services.trainer.context import TrainerContext
from tunefleet_services.trainer.uploads import ArtifactUploader

__all__ = ["run_order"]


async def run_order(
    context: TrainerContext, assignment: Assignment, folder: Path, uploads: ArtifactUploader
) -> RunOrder:
    """Bring what an attempt needs into its folder and say where it lies."""
    resolved = assignment.resolved_spec
    order = RunOrder(
        run=f"{assignment.job_uid}-{assignment.attempt}",
        job=assignment.job,
        attempt=assignment.attempt,
        resolved_spec=resolved,
        resolved_spec_digest=assignment.resolved_spec_digest,
        work_dir=str(folder),
        device_ids=assignment.device_ids,
        threads=context.threads,
    )
    if assignment.HasField("resume_from"):
        await uploads.fetch(assignment.resume_from.manifest_digest, folder / "resume")
        order.resume_from = str(folder / "resume")
        order.resume_step = assignment.resume_from.step
    if resolved.adapter.manifest_digest:
        await uploads.fetch(resolved.adapter.manifest_digest, folder / "adapter")
        order.adapter_dir = str(folder / "adapter")
    if resolved.HasField("merge_backend"):
        order.merge_program.CopyFrom(context.pool.program_of(resolved.merge_backend.name))
    if resolved.base.manifest_digest:
        # The path is where another host, or an earlier life of this one, laid the base out.
        order.resolved_spec.base.path = str(await context.models.fetch(resolved.base.manifest_digest))
    for item in order.resolved_spec.data:
        item.path = await context.data.bring(item.path, item.sha256)
    order.trackers.extend(context.pool.trackers_of(resolved.spec, context.tracking))
    await _bring_companions(context, order, folder, uploads)
    return order


async def _bring_companions(
    context: TrainerContext, order: RunOrder, folder: Path, uploads: ArtifactUploader
) -> None:
    """Lay out what the models beside the base are read from, and tell where."""
    for index, companion in enumerate(order.resolved_spec.companions):
        if companion.base.manifest_digest:
            companion.base.path = str(await context.models.fetch(companion.base.manifest_digest))
        path = ""
        if companion.adapter.manifest_digest:
            path = str(folder / f"companion-{index}")
            await uploads.fetch(companion.adapter.manifest_digest, Path(path))
        order.companion_adapter_dirs.append(path)
