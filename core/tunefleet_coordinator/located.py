"""`datasets/<name>` in a spec: found at submit, so that what runs depends on bytes and not on a name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_coordinator.holds import Holds
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.store.datasets import DatasetRow, require_dataset
from tunefleet_core.artifacts import BlobStore
from tunefleet_core.resolve import Resolution, digest_of

__all__ = ["DatasetLocator", "LocatedSpec"]

_REFERENCE = re.compile(r"(projects/[^/]+/)?datasets/[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedSpec:
    """A spec whose datasets are files, and what they were."""

    spec: JobSpec
    asked: JobSpec
    by_path: dict[str, DatasetRow]

    def restore(self, resolution: Resolution) -> Resolution:
        """Put the names back where people read, and leave paths and digests where workers do."""
        if not self.by_path:
            return resolution
        resolved = ResolvedSpec()
        resolved.CopyFrom(resolution.spec)
        for (message, field), (asked, _) in zip(_sources(resolved.spec), _sources(self.asked), strict=True):
            setattr(message, field, getattr(asked, field))
        for item in resolved.data:
            row = self.by_path.get(item.path)
            if row is not None:
                item.sha256, item.rows = row.sha256, row.rows
        return replace(resolution, spec=resolved, digest=digest_of(resolved))


class DatasetLocator:
    """Finds datasets in the store of blobs."""

    def __init__(self, kernel: Kernel, blobs: BlobStore, holds: Holds) -> None:
        self._kernel = kernel
        self._blobs = blobs
        self._holds = holds

    async def locate(self, project: str, spec: JobSpec) -> LocatedSpec:
        """Return a spec in which every dataset is a file of this host.

        Raises:
            TunefleetError: DATASET_NOT_FOUND.
        """
        if not any(_REFERENCE.fullmatch(getattr(message, field)) for message, field in _sources(spec)):
            return LocatedSpec(spec=spec, asked=spec, by_path={})
        located = JobSpec()
        located.CopyFrom(spec)
        by_path: dict[str, DatasetRow] = {}
        for message, field in _sources(located):
            row = await self.find(project, getattr(message, field))
            if row is not None:
                path = self.path_of(row)
                by_path[path] = row
                setattr(message, field, path)
        return LocatedSpec(spec=located, asked=spec, by_path=by_path)

    async def find(self, project: str, source: str) -> DatasetRow | None:
        """Return the dataset that a source names; None if it names a file."""
        if not _REFERENCE.fullmatch(source):
            return None
        name = source if source.startswith("projects/") else f"projects/{project}/{source}"
        async with self._holds.taking(name) as take:
            row = await self._kernel.read(self._kernel.store.read, require_dataset, name)
            take(row.sha256)
            return row

    def digest_of(self, path: str) -> str:
        """Return the digest of a file of the store; empty for a file elsewhere."""
        name = Path(path).name
        return name if name and str(self._blobs.path_of(name)) == path else ""

    def path_of(self, row: DatasetRow) -> str:
        """Return where the rows of a dataset lie on this host."""
        return str(self._blobs.path_of(row.sha256))


def _sources(spec: JobSpec) -> Iterator[tuple[Any, str]]:
    """Yield every field of a spec that may name a data file, as (message, field)."""
    if spec.HasField("train"):
        for source in spec.train.data.train:
            yield source, "source"
        yield spec.train.data, "validation"
        yield spec.train.data, "test"
        yield spec.train.data, "general"
    elif spec.HasField("evaluate"):
        yield spec.evaluate, "data"
        yield spec.evaluate, "examples"
