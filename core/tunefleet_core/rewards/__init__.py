"""Rewards: what scores the answers of a model that learns by trying.

`reward.py` is the shape of one, `builtin.py` holds ours, `model.py` the one that asks a trained
model, `judge.py` an endpoint, `code.py` a file of Python, `scoring.py` makes those that a job names.
A plugin brings further ones by the hook `tunefleet_rewards`, in the environment of the backend.
"""

from tunefleet_core.rewards.builtin import REWARDS
from tunefleet_core.rewards.model import REWARD_MODEL
from tunefleet_core.rewards.reward import Reward, Scorer
from tunefleet_core.rewards.scoring import NamedScorer, make_scorers, missing_field

__all__ = ["REWARDS", "REWARD_MODEL", "NamedScorer", "Reward", "Scorer", "make_scorers", "missing_field"]
