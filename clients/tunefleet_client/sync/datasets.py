"""Datasets: rows that are sent once and named in jobs.

Sync face of `tunefleet_client.datasets`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunefleet.dataset.v1 import dataset_service_pb2 as wire
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet_client import datasets as _async
from tunefleet_client.sync.session import Session
from tunefleet_client.transfers import Progress

__all__ = ["Datasets"]


class Datasets:
    """The datasets of one project. Every method raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Datasets) -> None:
        self._session = session
        self._inner = inner

    def create(
        self,
        name: str,
        file: str | Path,
        *,
        labels: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        request_id: str | None = None,
    ) -> Dataset:
        """Send a JSONL file and make a dataset of it, if every row can be read.

        Raises:
            TunefleetError: DATA_INVALID naming line and field of the first wrong row,
                DATASET_EXISTS if the name has other rows, and what `transfers.upload` raises.

        Example:
            >>> client.datasets.create("tickets", "train.jsonl")  # doctest: +SKIP
        """
        return self._session.call(
            self._inner.create(name, file, labels=labels, progress=progress, request_id=request_id)
        )

    def get(self, name: str) -> Dataset:
        """Return a dataset."""
        return self._session.call(self._inner.get(name))

    def list(self, *, limit: int | None = None) -> tuple[Dataset, ...]:
        """Return datasets, newest first."""
        return self._session.call(self._inner.list(limit=limit))

    def delete(self, name: str, *, allow_missing: bool = False, request_id: str | None = None) -> None:
        """Remove a dataset. Jobs that were submitted with it keep their rows."""
        return self._session.call(
            self._inner.delete(name, allow_missing=allow_missing, request_id=request_id)
        )

    def check(
        self, source: str, *, model: str, revision: str = "", max_length: int = 0, loss_on: str = ""
    ) -> wire.CheckRowsResponse:
        """Read rows as training with a base would: lengths, loss mask, wrong rows.

        Args:
            source: A JSONL file on the trainer's host, or `datasets/<name>`.
            model: The base: folder or Hub id.
            revision: Hub revision.
            max_length: Longest row in tokens; 0: no limit.
            loss_on: Which tokens carry loss: `assistant` (default) or `all`.
        """
        return self._session.call(
            self._inner.check(source, model=model, revision=revision, max_length=max_length, loss_on=loss_on)
        )
