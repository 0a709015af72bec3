"""Deployments: what is served.

Sync face of `tunefleet_client.deployments`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec
from tunefleet.deployment.v1.rollout_pb2 import Rollout, RolloutPolicy
from tunefleet_client import deployments as _async
from tunefleet_client.sync.session import Session
from tunefleet_client.watch_deployment import DeploymentChange

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
        """Wait until a deployment takes traffic with every replica that has a server, and return it.

        One that is DEGRADED then says in `reason` and `replicas` what is missing.

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

    def scale(self, name: str, replicas: int, *, etag: str = "", request_id: str | None = None) -> Deployment:
        """Say how many engines serve a deployment; of one whose roll-out goes on, both versions.

        New ones take traffic once they are loaded and checked; those too many end their requests first.

        Args:
            name: The deployment.
            replicas: How many there are to be, at least 1.
            etag: If given, must be the deployment's current one.
            request_id: Idempotency key; left out, a new one.
        """
        return self._session.call(self._inner.scale(name, replicas, etag=etag, request_id=request_id))

    def roll_out(
        self,
        name: str,
        spec: DeploymentSpec | str,
        policy: RolloutPolicy | None = None,
        *,
        etag: str = "",
        request_id: str | None = None,
    ) -> Rollout:
        """Begin to roll out a new version: loaded and checked first, then given more and more traffic.

        Args:
            name: The deployment.
            spec: What the new version serves; text is the model alone. What is left out is as it is
                in the version that serves.
            policy: Steps, bake time, limits; left out: 5, 25, 100 percent, each until `promote`.
                Its job may be named by its short name.
            etag: If given, must be the deployment's current one.
            request_id: Idempotency key; left out, a new one.
        """
        return self._session.call(self._inner.roll_out(name, spec, policy, etag=etag, request_id=request_id))

    def promote(self, name: str, *, to_last_step: bool = False, request_id: str | None = None) -> Rollout:
        """Take the next step of a roll-out now; at the last one, end it.

        Args:
            name: The deployment.
            to_last_step: Go to 100 percent at once.
            request_id: Idempotency key; left out, a new one.
        """
        return self._session.call(self._inner.promote(name, to_last_step=to_last_step, request_id=request_id))

    def roll_back(self, name: str, *, reason: str = "", request_id: str | None = None) -> Rollout:
        """Give all of the traffic back to the version before, at once.

        Args:
            name: The deployment.
            reason: Why, for the history.
            request_id: Idempotency key; left out, a new one.
        """
        return self._session.call(self._inner.roll_back(name, reason=reason, request_id=request_id))

    def rollout(self, name: str) -> Rollout | None:
        """Return the roll-out of a deployment that goes on, else the last one; None: there never was one."""
        return self._session.call(self._inner.rollout(name))

    def watch(
        self, name: str, after_sequence: int = 0, *, give_up_seconds: float = 120.0
    ) -> Generator[DeploymentChange]:
        """Follow a deployment: its snapshots, and every event once, in order, over reconnects.

        Ends when the deployment is gone. To leave earlier, close it (`contextlib.closing`).

        Args:
            name: The deployment.
            after_sequence: Begin after this event; 0: with the oldest that is kept.
            give_up_seconds: How long the coordinator may be away.
        """
        return self._session.iterate(self._inner.watch(name, after_sequence, give_up_seconds=give_up_seconds))
