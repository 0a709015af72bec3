"""What is kept on disk about a deployment that is READY, so that a restarted server serves on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tunefleet.fleet.v1.fleet_pb2 import DeploymentAssignment, DeploymentStatus
from tunefleet_core.artifacts import write_whole_file

__all__ = ["DeploymentFolder", "find_deployments"]

_ASSIGNMENT = "assignment.pb"
_STATUS = "status.pb"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFolder:
    """The folder of one deployment below the server's `deployments/`."""

    path: Path

    def keep(self, assignment: DeploymentAssignment, status: DeploymentStatus) -> None:
        """Keep what is served and what the contract found."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole_file(self.path / _ASSIGNMENT, assignment.SerializeToString())
        write_whole_file(self.path / _STATUS, status.SerializeToString())

    def read(self) -> tuple[DeploymentAssignment, DeploymentStatus]:
        """Return what was kept."""
        assignment = DeploymentAssignment.FromString((self.path / _ASSIGNMENT).read_bytes())
        return assignment, DeploymentStatus.FromString((self.path / _STATUS).read_bytes())

    def remove(self) -> None:
        """Forget the deployment."""
        shutil.rmtree(self.path, ignore_errors=True)


def find_deployments(deployments: Path) -> list[DeploymentFolder]:
    """Return the deployments that were READY in an earlier life of the server."""
    return [DeploymentFolder(path=path.parent) for path in sorted(deployments.glob(f"*/{_STATUS}"))]
