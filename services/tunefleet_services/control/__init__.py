"""The control stream of a service: attach, heartbeat, desired set, status."""

from tunefleet_services.control.artifact_folders import ArtifactFolders
from tunefleet_services.control.connection import Connection
from tunefleet_services.control.inspections import Audit, InspectionDesk, no_audit
from tunefleet_services.control.session import ServiceSession, SessionHandler

__all__ = [
    "ArtifactFolders",
    "Audit",
    "Connection",
    "InspectionDesk",
    "ServiceSession",
    "SessionHandler",
    "no_audit",
]
