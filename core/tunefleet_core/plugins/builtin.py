"""The plugin that comes with tunefleet itself: it brings the recipes and the rewards.

Families and backends are distributions of their own, so that each can be replaced. It is
loaded like any other, which keeps that path exercised everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_core.recipes import JobRecipe, own_recipes
from tunefleet_core.rewards import REWARDS, Reward

__all__ = ["tunefleet_recipes", "tunefleet_rewards"]


@hookimpl
def tunefleet_recipes() -> Sequence[JobRecipe]:
    """Return the recipes that come with tunefleet."""
    return own_recipes()


@hookimpl
def tunefleet_rewards() -> Sequence[Reward]:
    """Return the rewards that come with tunefleet."""
    return REWARDS
