"""Models: what jobs produced.

Sync face of `tunefleet_client.models`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from typing import Any

from tunefleet.model.v1.model_pb2 import Model
from tunefleet_client import models as _async
from tunefleet_client.sync.session import Session

__all__ = ["Models"]


class Models:
    """The models of one project. Every method raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Models) -> None:
        self._session = session
        self._inner = inner

    def get(self, name: str) -> Model:
        """Return a model."""
        return self._session.call(self._inner.get(name))

    def list(self, *, limit: int | None = None) -> tuple[Model, ...]:
        """Return models, newest first."""
        return self._session.call(self._inner.list(limit=limit))

    def delete(self, name: str, *, allow_missing: bool = False, request_id: str | None = None) -> None:
        """Remove a model; its files go with the next prune.

        Raises:
            FailedPrecondition: STATE_CONFLICT while it is served or a job needs it.
        """
        return self._session.call(
            self._inner.delete(name, allow_missing=allow_missing, request_id=request_id)
        )
