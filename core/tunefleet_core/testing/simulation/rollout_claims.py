"""Claims about roll-outs, on the durable rows alone: whose name it is, and who gets the traffic."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet.deployment.v1.rollout_pb2 import RolloutState
from tunefleet_core.lifecycle import Change, DeploymentRow, RowChange, TrafficRow, shares_of
from tunefleet_core.testing.simulation.claim import require
from tunefleet_core.testing.simulation.durable import DurableRows

__all__ = ["RolloutClaims"]

_SUCCEEDED = RolloutState.ROLLOUT_STATE_SUCCEEDED
_ROLLED_BACK = RolloutState.ROLLOUT_STATE_ROLLED_BACK


class RolloutClaims:
    """Counts how roll-outs ended, and checks every commit that touches one."""

    def __init__(self) -> None:
        self.ended = {_SUCCEEDED: 0, _ROLLED_BACK: 0}

    def check(self, durable: DurableRows, changes: Sequence[Change]) -> None:
        """Check what a commit has made of the deployments that it touches."""
        won: set[str] = set()
        for change in changes:
            if isinstance(change, RowChange) and isinstance(change.new, TrafficRow):
                self._check_end(durable, change.old, change.new)
                if change.new.state == _SUCCEEDED:
                    won.add(change.new.uid)
        for change in changes:
            new = change.new if isinstance(change, RowChange) else None
            if not isinstance(new, DeploymentRow) or not isinstance(change, RowChange):
                continue
            if isinstance(change.old, DeploymentRow) and change.old.is_current != new.is_current:
                require(new.deployment_uid in won, f"{new.name} changed its version without a roll-out won.")
            self._check_whole(durable, new)

    def check_over(self, durable: DurableRows) -> None:
        """Check that nothing goes on when every deployment was deleted."""
        for row in durable.rows.values():
            if isinstance(row, TrafficRow):
                require(row.is_over and not row.is_rolling, f"The traffic of {row.name} outlives it.")

    def _check_whole(self, durable: DurableRows, touched: DeploymentRow) -> None:
        rows = [row for row in durable.rows.values() if isinstance(row, DeploymentRow)]
        versions = [row for row in rows if row.deployment_uid == touched.deployment_uid]
        current = [row for row in versions if row.is_current]
        require(len(current) == 1, f"{touched.name} stands for {len(current)} versions.")
        numbers = [row.number for row in versions]
        require(len(numbers) == len(set(numbers)), f"{touched.name} has two versions of one number.")

    def _check_end(self, durable: DurableRows, old: object, new: TrafficRow) -> None:
        rows = [durable.rows.get(("deployment", uid, 0)) for uid in (new.current, new.candidate)]
        current, candidate = (row if isinstance(row, DeploymentRow) else None for row in rows)
        total = sum(shares_of(new, current, candidate).values()) if new.candidate else 0
        require(total in (0, 100), f"The shares of {new.name} are {total} together.")
        if not isinstance(old, TrafficRow) or not old.is_rolling or new.is_rolling:
            return
        require(new.state in self.ended, f"The roll-out of {new.name} ended as {new.state}.")
        self.ended[new.state] += 1
        winner = candidate if new.state == _SUCCEEDED else current
        is_right = winner is not None and winner.is_current
        require(is_right, f"The roll-out of {new.name} ended with the wrong version.")
