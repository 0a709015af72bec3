"""The files of a job as found, and what an epoch takes of each source of rows: counted, and told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tunefleet.backend.v1.inspect_pb2 import AuditResult, FileAudit
from tunefleet.job.v1.event_pb2 import Notice
from tunefleet.job.v1.resolved_pb2 import ResolvedData
from tunefleet.job.v1.spec_pb2 import DataSource, JobSpec, TrainSpec
from tunefleet_core.data import taken
from tunefleet_core.resolve.notice import info

__all__ = ["mixture_notices", "resolved_data", "rows_of"]


def rows_of(source: ResolvedData | DataSource, rows: int) -> int:
    """Return how many rows an epoch takes of a source that has so many."""
    return taken(rows, weight=source.weight or 1.0, repeats=source.repeats or 1, cap=source.cap)


def mixture_notices(train: TrainSpec, files: Sequence[FileAudit]) -> Iterator[Notice]:
    """Tell how many rows an epoch takes of each source, unless it takes all of a single one once.

    Args:
        train: What is trained, with every default filled in.
        files: What was found of its sources, in their order.
    """
    found = [
        (Path(source.source).name, rows_of(source, file.mask.rows), file.mask.rows)
        for source, file in zip(train.data.train, files, strict=True)
    ]
    if len(found) < 2 and all(count == rows for _, count, rows in found):
        return
    parts = [f"{count:,} of '{name}', which has {rows:,}" for name, count, rows in found]
    yield info(f"An epoch takes so many rows of each source: {'; '.join(parts)}.")


def resolved_data(spec: JobSpec, audit: AuditResult) -> list[ResolvedData]:
    """Return the files of a spec in its order, with what an audit found of them, and the code it found."""
    if spec.HasField("train"):
        data = [
            ResolvedData(
                role="train",
                path=source.source,
                weight=source.weight,
                repeats=source.repeats,
                cap=source.cap,
            )
            for source in spec.train.data.train
        ]
        if spec.train.data.validation:
            data.append(ResolvedData(role="validation", path=spec.train.data.validation, weight=1.0))
        if spec.train.data.general:
            data.append(ResolvedData(role="general", path=spec.train.data.general, weight=1.0))
    else:
        data = [ResolvedData(role="evaluate", path=spec.evaluate.data, weight=1.0)]
        if spec.evaluate.examples:
            data.append(ResolvedData(role="examples", path=spec.evaluate.examples, weight=1.0))
    for item, file in zip(data, audit.files, strict=False):  # without audits: paths alone
        item.sha256, item.rows = file.sha256, file.mask.rows
        if item.role == "train":
            item.rows_per_epoch = rows_of(item, file.mask.rows)
    code = [ResolvedData(role="reward", path=file.path, sha256=file.sha256) for file in audit.reward_files]
    return [*data, *code]
