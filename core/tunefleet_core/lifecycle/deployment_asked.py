"""The deployment that a request means, and whether the request was answered before."""

from __future__ import annotations

from dataclasses import dataclass

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle.draft import Draft
from tunefleet_core.lifecycle.inputs import (
    DeploymentDeleteRequested,
    DeploymentScaleRequested,
    PromoteRequested,
    RollbackRequested,
    RolloutRequested,
)
from tunefleet_core.lifecycle.jobs import answered_name
from tunefleet_core.lifecycle.rows import DeploymentRow, TrafficRow

__all__ = ["AskedDeployment", "check_etag", "find_asked", "no_deployment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDeployment:
    """A deployment of which something is asked, with its traffic."""

    row: DeploymentRow
    traffic: TrafficRow
    is_repeated: bool


def find_asked(
    draft: Draft,
    asked: DeploymentScaleRequested | RolloutRequested | PromoteRequested | RollbackRequested,
) -> AskedDeployment:
    """Return the deployment that is asked about.

    Raises:
        TunefleetError: DEPLOYMENT_NOT_FOUND; REQUEST_ID_REUSED if the request came with another body.
    """
    is_repeated = answered_name(draft, asked.request) is not None
    row = draft.world.deployment_by_name(asked.name)
    traffic = None if row is None else draft.traffic(row.deployment_uid)
    if row is None or traffic is None:
        raise no_deployment(asked)
    return AskedDeployment(row=row, traffic=traffic, is_repeated=is_repeated)


def no_deployment(
    asked: DeploymentDeleteRequested
    | DeploymentScaleRequested
    | RolloutRequested
    | PromoteRequested
    | RollbackRequested,
) -> TunefleetError:
    """Return the error of a name that no deployment has."""
    return TunefleetError(
        Reason.DEPLOYMENT_NOT_FOUND,
        f"There is no deployment '{asked.name}'.",
        hint="See the deployments there are: tunefleet deployments list",
        metadata={"deployment": asked.name},
    )


def check_etag(row: DeploymentRow, etag: str) -> None:
    """Refuse a change to what has changed since the caller read it. An empty etag asks for nothing.

    Raises:
        TunefleetError: ETAG_MISMATCH.
    """
    if etag and etag != f"{row.number}.{row.version}":
        raise TunefleetError(
            Reason.ETAG_MISMATCH,
            f"Deployment '{row.deployment_id}' has changed since it was read.",
            hint="Read it again, then repeat the change if it still makes sense.",
            metadata={"deployment": row.name},
        )
