"""From the rewards that a job names to scorers, refused by field where one is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.json_format import MessageToDict

from tunefleet.job.v1.spec_pb2 import Reward as AskedReward
from tunefleet_core.errors import TunefleetError
from tunefleet_core.rewards.reward import Reward, Scorer

__all__ = ["NamedScorer", "make_scorers", "missing_field"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedScorer:
    """A scorer, what its reward is called, and the factor of its score."""

    name: str
    weight: float
    scorer: Scorer


def make_scorers(asked: Sequence[AskedReward], known: Iterable[Reward], *, field: str) -> list[NamedScorer]:
    """Return a scorer for each reward that was asked for.

    Args:
        asked: The rewards of a job.
        known: The rewards there are; of two of one name the first counts.
        field: Where they stand in the job, such as `train.method.grpo.rewards`.

    Raises:
        TunefleetError: FIELD_INVALID for a name that is not known or options that do not fit.
    """
    by_name: dict[str, Reward] = {}
    for reward in known:
        by_name.setdefault(reward.name, reward)
    scorers: list[NamedScorer] = []
    for index, item in enumerate(asked):
        reward = by_name.get(item.name)
        if reward is None:
            near = difflib.get_close_matches(item.name, by_name, n=1, cutoff=0.6)
            mean = f"; did you mean '{near[0]}'?" if near else ""
            raise TunefleetError.field(
                f"{field}[{index}].name",
                f"'{item.name}' is no reward{mean}",
                hint=f"Known are {', '.join(sorted(by_name))}.",
            )
        try:
            scorer = reward.make(MessageToDict(item.options))
        except ValueError as error:
            raise TunefleetError.field(
                f"{field}[{index}].options", str(error), hint=reward.summary
            ) from error
        weight = item.weight if item.HasField("weight") else 1.0
        scorers.append(NamedScorer(name=item.name, weight=weight, scorer=scorer))
    return scorers


def missing_field(scorers: Iterable[NamedScorer], fields: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the first (reward, field) that a row lacks, or has as null; None: it has them all."""
    return next(
        ((item.name, name) for item in scorers for name in item.scorer.needs if fields.get(name) is None),
        None,
    )
