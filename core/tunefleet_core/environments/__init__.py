"""Environments: one per lock digest, so that backends cannot break each other."""

from tunefleet_core.environments.describe import describe_environment
from tunefleet_core.environments.install import InstallReport, install
from tunefleet_core.environments.layout import (
    HOST_DIGEST,
    Environment,
    EnvironmentIndex,
    host_environment,
)
from tunefleet_core.environments.removal import RemovalReport, remove

__all__ = [
    "HOST_DIGEST",
    "Environment",
    "EnvironmentIndex",
    "InstallReport",
    "RemovalReport",
    "describe_environment",
    "host_environment",
    "install",
    "remove",
]
