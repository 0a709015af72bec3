"""A model of the fleet, with what its job trained it as."""

from __future__ import annotations

from dataclasses import dataclass

from tunefleet.fleet.v1.fleet_pb2 import BaseQuestion
from tunefleet.job.v1.resolved_pb2 import ResolvedAdapter, ResolvedSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import ModelRow
from tunefleet_core.resolve import WantedCompanion, require_same_base

__all__ = ["TrainedModel", "is_of_fleet"]

_PREFIXES = ("models/", "projects/")
_REWARD_MODEL = "reward_model"


def is_of_fleet(reference: str) -> bool:
    """Return whether a spec names a model of the fleet, not a folder or a Hub id."""
    return reference.startswith(_PREFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model of the fleet with what it was trained as."""

    row: ModelRow
    resolved: ResolvedSpec

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole model rather than an adapter."""
        if self.row.kind == _REWARD_MODEL:
            return not self.resolved.spec.train.HasField("adapter")
        return self.row.kind == "model"

    @property
    def adapter(self) -> ResolvedAdapter:
        """The adapter as a resolved spec names it."""
        return ResolvedAdapter(model=self.row.name, manifest_digest=self.row.manifest_digest)

    @property
    def question(self) -> BaseQuestion:
        """What to ask for the weights below: of the model itself if it is whole, else of its base."""
        base = self.resolved.base
        if self.is_whole:
            return BaseQuestion(model=self.row.name, manifest_digest=self.row.manifest_digest)
        if base.manifest_digest:
            return BaseQuestion(model=base.model, manifest_digest=base.manifest_digest)
        return BaseQuestion(model=base.model if base.commit else base.path, revision=base.commit)

    def require_base(self, now: BaseFacts, *, verb: str) -> None:
        """Refuse an adapter whose base is no longer what it was trained on.

        Args:
            now: The base as it is now.
            verb: What is not done then, such as `served`.

        Raises:
            TunefleetError: BASE_INVALID naming what changed.
        """
        base = self.resolved.base
        # A manifest is what it is for ever, and some backends look at no base.
        if not self.is_whole and base.path and not base.manifest_digest:
            require_same_base(base, now, verb=verb)

    def require_writer(self, field: str) -> None:
        """Refuse a model that scores answers where one that writes them is needed.

        Raises:
            TunefleetError: FIELD_INVALID.
        """
        if self.row.kind == _REWARD_MODEL:
            name = f"models/{self.row.name.rpartition('/')[2]}"
            raise TunefleetError.field(
                field,
                f"'{name}' is a reward model: it scores answers and writes none",
                hint="Name it in the rewards of a grpo or rloo job: "
                f"{{name: reward_model, options: {{model: {name}}}}}",
            )

    def require_kind(self, wanted: WantedCompanion) -> None:
        """Refuse a model that cannot stand beside another as it is asked to.

        Raises:
            TunefleetError: FIELD_INVALID.
        """
        if not wanted.scores:
            self.require_writer(wanted.field)
        elif self.row.kind != _REWARD_MODEL:
            raise TunefleetError.field(
                wanted.field,
                f"'models/{self.row.name.rpartition('/')[2]}' writes answers and scores none",
                hint="Train one first, by a job with method: {reward: {}}, and name what it makes.",
            )
