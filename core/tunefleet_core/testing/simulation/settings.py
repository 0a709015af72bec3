"""What a simulated fleet is like and what happens to it. All times in virtual seconds."""

from __future__ import annotations

from dataclasses import dataclass

from tunefleet_core.errors import Reason

__all__ = ["LASTING", "PASSING", "Settings"]

PASSING = Reason.WORKER_LOST
"""Why a replica fails that is to be tried again."""
LASTING = Reason.NUMBERS_MISMATCH
"""Why one fails that is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A fleet, its work, and its bad luck."""

    services: int = 20
    """Trainers; two of five share their host with a server."""
    jobs: int = 100
    deployments: int = 6
    fault_seconds: float = 60.0
    """Faults and submits happen in this span; then everything heals and must come to its end."""
    lease_term_seconds: float = 5.0
    settle_seconds: float = 5000.0
    """A job that is not terminal this long after the last fault is stuck."""
    duplicate_share: float = 0.05
    """Messages that arrive twice."""
    slow_share: float = 0.05
    """Messages that are late, up to `latest_seconds`, and so overtake nothing but time."""
    fault_interval_seconds: float = 1.5
    """Mean time between faults somewhere in the fleet, for 20 services."""
    cancel_share: float = 0.2
    pause_share: float = 0.4
    """Jobs that are paused, some of them twice; each pause is taken back."""
    retry_share: float = 0.2
    """Jobs that somebody tries again at some moment, whether that is possible then or not."""
    delete_share: float = 0.1
    drains: int = 4
    """How often some service is drained for a while."""
    rollouts: int = 2
    """New versions that are asked for of each deployment, whether that is possible then or not."""
    scalings: int = 2
    """How often another number of replicas is asked for of each deployment."""
    replica_failures: float = 0.08
    """Chance per second and replica that its server gives it up, mostly for a cause that may pass."""
    replica_tries: int = 3
    full_check_every: int = 200
    """Steps between comparisons of the whole memory with the whole store."""

    @property
    def latest_seconds(self) -> float:
        """How late a message may be: two lease terms."""
        return 2 * self.lease_term_seconds
