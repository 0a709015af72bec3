"""Which role a method asks for. Deny by default: a method that is not named is refused."""

from __future__ import annotations

from collections.abc import Mapping

from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet_coordinator.security.principal import Principal, Role
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["METHOD_ROLES", "OPEN", "SHARED", "require_role"]

METHOD_ROLES: Mapping[str, Role] = {
    "/tunefleet.job.v1.JobService/GetJob": Role.VIEWER,
    "/tunefleet.job.v1.JobService/ListJobs": Role.VIEWER,
    "/tunefleet.job.v1.JobService/WatchJob": Role.VIEWER,
    "/tunefleet.job.v1.JobService/ListCheckpoints": Role.VIEWER,
    "/tunefleet.job.v1.JobService/DiagnoseJob": Role.VIEWER,
    "/tunefleet.job.v1.JobService/CreateJob": Role.USER,
    "/tunefleet.job.v1.JobService/PlanJob": Role.USER,
    "/tunefleet.job.v1.JobService/CancelJob": Role.USER,
    "/tunefleet.job.v1.JobService/UpdateJob": Role.USER,
    "/tunefleet.job.v1.JobService/DeleteJob": Role.USER,
    "/tunefleet.job.v1.JobService/PauseJob": Role.USER,
    "/tunefleet.job.v1.JobService/CheckpointJob": Role.USER,
    "/tunefleet.job.v1.JobService/ResumeJob": Role.USER,
    "/tunefleet.job.v1.JobService/RetryJob": Role.USER,
    "/tunefleet.dataset.v1.DatasetService/GetDataset": Role.VIEWER,
    "/tunefleet.dataset.v1.DatasetService/ListDatasets": Role.VIEWER,
    "/tunefleet.dataset.v1.DatasetService/CreateDataset": Role.USER,
    "/tunefleet.dataset.v1.DatasetService/DeleteDataset": Role.USER,
    "/tunefleet.dataset.v1.DatasetService/CheckRows": Role.USER,
    "/tunefleet.model.v1.ModelService/GetModel": Role.VIEWER,
    "/tunefleet.model.v1.ModelService/ListModels": Role.VIEWER,
    "/tunefleet.model.v1.ModelService/DeleteModel": Role.USER,
    "/tunefleet.deployment.v1.DeploymentService/GetDeployment": Role.VIEWER,
    "/tunefleet.deployment.v1.DeploymentService/ListDeployments": Role.VIEWER,
    "/tunefleet.deployment.v1.DeploymentService/CreateDeployment": Role.USER,
    "/tunefleet.deployment.v1.DeploymentService/DeleteDeployment": Role.USER,
    "/tunefleet.deployment.v1.DeploymentService/ScaleDeployment": Role.USER,
    "/tunefleet.deployment.v1.DeploymentService/GetRollout": Role.VIEWER,
    "/tunefleet.deployment.v1.DeploymentService/WatchDeployment": Role.VIEWER,
    "/tunefleet.deployment.v1.DeploymentService/RollOutDeployment": Role.USER,
    "/tunefleet.deployment.v1.DeploymentService/PromoteDeployment": Role.USER,
    "/tunefleet.deployment.v1.DeploymentService/RollBackDeployment": Role.USER,
    "/tunefleet.catalog.v1.CatalogService/ListPlugins": Role.VIEWER,
    "/tunefleet.catalog.v1.CatalogService/ListBackends": Role.VIEWER,
    "/tunefleet.catalog.v1.CatalogService/ListFamilies": Role.VIEWER,
    "/tunefleet.catalog.v1.CatalogService/ListFormats": Role.VIEWER,
    "/tunefleet.catalog.v1.CatalogService/ListCombinations": Role.VIEWER,
    "/tunefleet.fleet.v1.FleetService/ListServices": Role.VIEWER,
    "/tunefleet.fleet.v1.FleetService/GetFleet": Role.VIEWER,
    "/tunefleet.fleet.v1.FleetService/GetService": Role.VIEWER,
    "/tunefleet.fleet.v1.FleetService/DrainService": Role.OPERATOR,
    "/tunefleet.fleet.v1.FleetService/UndrainService": Role.OPERATOR,
    "/tunefleet.fleet.v1.FleetService/RemoveService": Role.OPERATOR,
    "/tunefleet.fleet.v1.FleetService/CreateToken": Role.ADMIN,
    "/tunefleet.fleet.v1.FleetService/ListTokens": Role.ADMIN,
    "/tunefleet.fleet.v1.FleetService/RevokeToken": Role.ADMIN,
    "/tunefleet.fleet.v1.FleetService/CreateJoinToken": Role.OPERATOR,
    "/tunefleet.fleet.v1.FleetService/ListJoinTokens": Role.OPERATOR,
    "/tunefleet.fleet.v1.FleetService/RevokeJoinToken": Role.OPERATOR,
    "/tunefleet.fleet.v1.FleetService/RenewCertificate": Role.SERVICE,
    "/tunefleet.fleet.v1.FleetService/Attach": Role.SERVICE,
    "/tunefleet.fleet.v1.FleetService/ReportEvents": Role.SERVICE,
    "/tunefleet.fleet.v1.FleetService/ReportInspection": Role.SERVICE,
    "/tunefleet.artifact.v1.ArtifactService/GetManifest": Role.VIEWER,
    "/tunefleet.artifact.v1.ArtifactService/PruneArtifacts": Role.OPERATOR,
    "/tunefleet.artifact.v1.BlobService/GetBlob": Role.VIEWER,
    "/tunefleet.artifact.v1.BlobService/UploadBlob": Role.USER,
    "/tunefleet.artifact.v1.BlobService/DownloadBlob": Role.VIEWER,
    "/tunefleet.artifact.v1.BlobService/OpenHandover": Role.VIEWER,
    "/tunefleet.artifact.v1.ArtifactService/CommitManifest": Role.SERVICE,
    "/grpc.health.v1.Health/Watch": Role.VIEWER,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.VIEWER,
}
"""The least role a method needs. A method that is not named here is refused.

SERVICE methods are for services alone. `OPEN` needs no token, `SHARED` is for services too.
"""

OPEN = frozenset({"/grpc.health.v1.Health/Check", "/tunefleet.fleet.v1.FleetService/Join"})
"""Methods without a token. A prober (systemd, Kubernetes, a load balancer) has none, and the
answer, one word, tells no more than whether the port is open. Watch holds a stream, so it asks.
Whoever joins shows the secret of a join token instead, in the request.
"""

SHARED = frozenset(
    {
        "/tunefleet.artifact.v1.ArtifactService/GetManifest",
        "/tunefleet.artifact.v1.BlobService/GetBlob",
        "/tunefleet.artifact.v1.BlobService/UploadBlob",
        "/tunefleet.artifact.v1.BlobService/DownloadBlob",
        "/tunefleet.artifact.v1.BlobService/OpenHandover",
        "/tunefleet.fleet.v1.FleetService/GetFleet",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""Methods of people that services may call too."""

FLEET_WIDE = frozenset(
    {
        "/tunefleet.fleet.v1.FleetService/DrainService",
        "/tunefleet.fleet.v1.FleetService/UndrainService",
        "/tunefleet.fleet.v1.FleetService/RemoveService",
        "/tunefleet.artifact.v1.ArtifactService/PruneArtifacts",
        "/tunefleet.fleet.v1.FleetService/CreateJoinToken",
        "/tunefleet.fleet.v1.FleetService/ListJoinTokens",
        "/tunefleet.fleet.v1.FleetService/RevokeJoinToken",
    }
)
"""Methods that act on what all projects share: a token of one project may not."""


_OF_GATEWAYS = frozenset(
    f"/tunefleet.fleet.v1.FleetService/{name}" for name in ("Attach", "RenewCertificate", "GetFleet")
)
"""All that a gateway of another machine needs of those for services: it holds no files."""


def require_role(principal: Principal, method: str) -> None:
    """Refuse a principal that may not call a method.

    Raises:
        TunefleetError: PERMISSION_DENIED.
    """
    needed = METHOD_ROLES.get(method)
    if not _is_enough(principal, needed, method):
        raise TunefleetError(
            Reason.PERMISSION_DENIED,
            f"{principal.name} ({principal.role.name.lower()}) may not call {method.rpartition('/')[2]}.",
            hint=f"It needs the role {needed.name.lower() if needed is not None else 'of nobody'}.",
            metadata={"principal": principal.name, "method": method},
        )
    if method in FLEET_WIDE and principal.project != "*":
        raise TunefleetError(
            Reason.PERMISSION_DENIED,
            f"{principal.name} is bound to project '{principal.project}'; "
            f"{method.rpartition('/')[2]} concerns the whole fleet.",
            hint="Ask an admin for a token of all projects.",
            metadata={"principal": principal.name, "project": principal.project, "method": method},
        )


def _is_enough(principal: Principal, needed: Role | None, method: str) -> bool:
    if needed is None:
        return False
    if principal.kind == ServiceKind.SERVICE_KIND_GATEWAY and method not in _OF_GATEWAYS:
        return False
    if principal.role is Role.SERVICE:
        return needed is Role.SERVICE or method in SHARED
    return needed is not Role.SERVICE and principal.role >= needed
