"""Deployments: what is served.

Sync face of `tunefleet_client.deployments`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from typing import Any

from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec
from tunefleet_client import deployments as _async
from tunefleet_client.sync.session import Session

__all__ = ["Deployments"]


class Deployments:
    """The deployments of one project. Every method raises TunefleetError."""

    def __init__(self, session: Session[Any], inner: _async.Deployments) -> None:
        self._session = session
        self._inner = inner

    def create(
        self,
        spec: DeploymentSpec | str,
        *,
        deployment_id: str | None = None,
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Deployment:
        """Ask for a model to be served; it takes traffic once READY.

        Args:
            spec: What to serve; text is the model alone: `models/<name>`, a Hub id, or the
                absolute folder of a base.
            deployment_id: The model name on the gateway; left out, the model's own id.
            request_id: Idempotency key; left out, a new one.
            validate_only: Check and keep nothing; the answer has no name.
        """
        return self._session.call(
            self._inner.create(
                spec, deployment_id=deployment_id, request_id=request_id, validate_only=validate_only
            )
        )

    def get(self, name: str) -> Deployment:
        """Return a deployment as it stands."""
        return self._session.call(self._inner.get(name))

    def wait(self, name: str, *, deadline_seconds: float = 600.0) -> Deployment:
        """Wait until a deployment takes traffic and return it.

        Args:
            name: The deployment.
            deadline_seconds: Loading a large model takes minutes.

        Raises:
            TunefleetError: Why it could not be served, STATE_CONFLICT if it is being taken
                down, TIME_LIMIT past the deadline.
        """
        return self._session.call(self._inner.wait(name, deadline_seconds=deadline_seconds))

    def list(self, *, limit: int | None = None) -> tuple[Deployment, ...]:
        """Return deployments, newest first."""
        return self._session.call(self._inner.list(limit=limit))

    def delete(
        self, name: str, *, allow_missing: bool = False, etag: str = "", request_id: str | None = None
    ) -> Deployment:
        """Take a deployment down.

        Args:
            name: The deployment.
            allow_missing: Succeed if there is none.
            etag: If given, must be the deployment's current one.
            request_id: Idempotency key; left out, a new one.
        """
        return self._session.call(
            self._inner.delete(name, allow_missing=allow_missing, etag=etag, request_id=request_id)
        )
