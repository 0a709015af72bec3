"""The reward of a trained model: named as any other, but scored on token ids by the backend.

The model stands in the resolved spec as a companion of the base; what scores is the backend's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunefleet_core.rewards.reward import Reward, Scorer

__all__ = ["MODEL_REWARD", "REWARD_MODEL"]

REWARD_MODEL = "reward_model"
"""What a job file calls it."""


def _make(options: Mapping[str, object]) -> Scorer:
    for name in options:
        if name != "model":
            raise ValueError(f"{name} is no option; it takes model")
    model = options.get("model")
    if not isinstance(model, str) or not model.startswith(("models/", "projects/")):
        raise ValueError("model must be a reward model of the fleet, models/<name>")
    return Scorer(score=_not_by_text, model=model)


def _not_by_text(rows: Sequence[Mapping[str, object]], answers: Sequence[str]) -> Sequence[float]:
    raise NotImplementedError("a reward model scores token ids: this backend has to ask it")


MODEL_REWARD = Reward(
    name=REWARD_MODEL,
    summary="The score that a reward model of the fleet gives (`model`, models/<name>).",
    make=_make,
)
