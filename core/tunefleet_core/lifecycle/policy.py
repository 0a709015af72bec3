"""Numbers that decisions depend on; everything else about them is fixed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient the coordinator is, and how much it remembers of a job."""

    lease_term_seconds: float = 15.0
    """Silence after which the work of a service is given to another."""
    suspect_share: float = 1 / 3
    """Share of the lease term after which a silent service gets nothing new."""
    backoff_base_seconds: float = 0.5
    """Wait before the second attempt; doubles with every failure."""
    backoff_cap_seconds: float = 60.0
    replica_tries: int = 8
    """How often in a row a replica is tried whose failures may pass."""
    replica_backoff_base_seconds: float = 5.0
    """Wait before its second try; doubles with every failure. All of them take ten minutes."""
    replica_backoff_cap_seconds: float = 300.0
    replica_stable_seconds: float = 600.0
    """READY for so long, its failures are forgotten."""
    history_events: int = 200_000
    """Most events that are kept of a job; beyond it the oldest are given up."""
    history_bytes: int = 64 << 20
    """Most bytes that they may take."""
    history_kept_share: float = 0.9
    """What is left of either bound after some were given up: so that it is not done for every event."""

    def backoff_seconds(self, failures: int) -> float:
        """Return the wait after the given number of failures (1 or more)."""
        return _doubled(self.backoff_base_seconds, failures, self.backoff_cap_seconds)

    def replica_backoff_seconds(self, failures: int) -> float:
        """Return the wait of a replica after the given number of failures (1 or more)."""
        return _doubled(self.replica_backoff_base_seconds, failures, self.replica_backoff_cap_seconds)

    @property
    def suspect_after_seconds(self) -> float:
        return self.lease_term_seconds * self.suspect_share


def _doubled(base: float, failures: int, cap: float) -> float:
    # The exponent is bounded so that a job with thousands of attempts does not overflow a float.
    return min(cap, base * 2.0 ** min(failures - 1, 40))
