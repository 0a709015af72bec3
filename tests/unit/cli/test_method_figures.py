"""The line of a step tells the figure by which its method is followed."""

from __future__ import annotations

import pytest

from tunefleet.job.v1.event_pb2 import Metrics
from tunefleet_cli.output.events import metrics_line


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"rewards/margins": 0.5, "rewards/chosen": 0.3}, "margin 0.5"),
        ({"reward": 0.25, "reward_std": 0.1, "kl": 0.01}, "reward 0.25"),
        ({"token_accuracy": 0.9}, ""),
    ],
)
def test_a_step_tells_margin_or_reward(extra: dict[str, float], told: str) -> None:
    line = metrics_line(Metrics(step=1, total_steps=2, loss=0.5, extra=extra), eta_seconds=None)
    assert told in line
    assert ("margin" in line, "reward" in line) == ("margin" in told, "reward" in told)
