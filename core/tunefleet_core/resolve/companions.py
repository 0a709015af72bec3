"""Models that are read beside the base: which a spec names, and what must agree.

A reward model scores token ids, so it has to have been trained on those that the answers get: the
same tokenizer, which the backend proves in its audit, and the same chat template, proven here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunefleet.job.v1.resolved_pb2 import ChatTemplate, CompanionModel
from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.errors import TunefleetError
from tunefleet_core.resolve.defaults import distill, online
from tunefleet_core.rewards import REWARD_MODEL

__all__ = ["WantedCompanion", "companions_of", "require_same_template"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCompanion:
    """A model that a spec names beside its base.

    Attributes:
        field: The field that names it.
        model: A local folder, a Hub id, or `models/<name>`.
        revision: Hub revision; empty: none was named.
        scores: Whether it is to score answers; else to write them.
    """

    field: str
    model: str
    revision: str = ""
    scores: bool = False


def companions_of(train: TrainSpec) -> list[WantedCompanion]:
    """Return the models that a valid spec names beside its base, in its order."""
    method = train.method.WhichOneof("method") or "sft"
    if method == distill.METHOD and train.method.distill.teacher.HasField("model"):
        model = train.method.distill.teacher.model
        field = "train.method.distill.teacher.model.model"
        return [WantedCompanion(field=field, model=model.model, revision=model.revision)]
    if method not in online.METHODS:
        return []
    return [
        WantedCompanion(
            field=f"train.method.{method}.rewards[{index}].options.model",
            model=str(reward.options["model"]),
            scores=True,
        )
        for index, reward in enumerate(getattr(train.method, method).rewards)
        if reward.name == REWARD_MODEL
    ]


def require_same_template(
    companions: Iterable[CompanionModel], scoring: Sequence[str], template: ChatTemplate
) -> None:
    """Refuse a reward model that was trained with another chat template.

    Args:
        companions: What was found.
        scoring: The fields that name models that score.
        template: The template of the run.

    Raises:
        TunefleetError: FIELD_INVALID.
    """
    for companion in companions:
        if companion.field in scoring and companion.template_sha256 != template.sha256:
            raise TunefleetError.field(
                companion.field,
                f"was trained with another chat template than '{template.source}', so it scores other tokens",
                hint="Train a reward model on this base, or on another of its family.",
            )
