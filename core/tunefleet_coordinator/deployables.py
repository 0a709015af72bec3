"""What a deployment would serve, and how: everything decided before the core hears of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec
from tunefleet.fleet.v1.fleet_pb2 import BaseQuestion
from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_coordinator.resolver import Resolver
from tunefleet_coordinator.trained_model import TrainedModel, is_of_fleet
from tunefleet_core.errors import TunefleetError
from tunefleet_core.lifecycle import DeploymentRow
from tunefleet_core.resolve import require_deployable, settle_engine
from tunefleet_core.spec import written_rank

__all__ = ["Deployable", "check_replicas", "resolve_deployable"]

_DIGEST_SHOWN = 12
_MOST_REPLICAS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployable:
    """A model with everything that serving it takes."""

    stem: str
    """Id of a deployment that is given none."""
    spec: DeploymentSpec
    """As asked, with the settings of the engine decided."""
    engine: str
    base: BaseFacts
    adapter_manifest_digest: str
    engine_model: str


async def resolve_deployable(
    resolver: Resolver, project: str, asked: DeploymentSpec, *, beside: DeploymentRow | None = None
) -> Deployable:
    """Decide how a model is served.

    Args:
        beside: The version that serves now: what is left out is as there, so that both can share an engine.

    Raises:
        TunefleetError: what is wrong with the model, the engine, or their going together.
    """
    if not asked.model:
        raise TunefleetError.field("spec.model", "must be given: models/<name>, a folder or a Hub id")
    spec = DeploymentSpec()
    spec.CopyFrom(asked)
    if not spec.replicas:
        spec.replicas = beside.replicas if beside is not None else 1
    check_replicas(spec.replicas, "spec.replicas")
    if beside is not None and not spec.engine:
        spec.engine = beside.engine
    digest = trained_with = written_as = ""
    adapted: TrainSpec | None = None
    template: ChatTemplate | None = None
    if is_of_fleet(spec.model):
        trained = await resolver.trained_model(project, spec.model)
        trained.require_writer("spec.model")
        stem = trained.row.name.rpartition("/")[2]
        engine_model = f"{stem}@{trained.row.manifest_digest[:_DIGEST_SHOWN]}"
        trained_with = trained.resolved.backend.name
        if trained.resolved.HasField("chat_template"):
            template = trained.resolved.chat_template
        if trained.is_whole:
            written_as = trained.resolved.spec.export.quantize.format
            if written_as:  # before its folder is read, which may be in no form that we read
                await resolver.engine_for(spec.engine, "", stored_as=written_as)
            facts = await _whole_model(resolver, trained)
        else:
            digest, adapted = trained.row.manifest_digest, trained.resolved.spec.train
            facts = await _base_as_trained(resolver, trained)
    else:
        facts = await resolver.base_facts(BaseQuestion(model=spec.model))
        stem = _slug(spec.model)
        engine_model = f"base@{facts.base_digest[:_DIGEST_SHOWN]}"
    stored_as = written_as or facts.quantization.format
    engine = await resolver.engine_for(spec.engine, trained_with, stored_as=stored_as, facts=facts)
    if adapted is not None:
        require_deployable(adapted, engine.name)
    rank = written_rank(adapted) if adapted is not None else 0
    if beside is not None:
        _share_engine(spec, beside, facts, engine.name, rank)
    settings = settle_engine(
        spec.engine_settings,
        engine,
        base=facts,
        parsers=resolver.parsers_of(engine.name, facts, template) if engine.engine_settings else None,
        template=template,
        rank=rank,
    )
    spec.engine = asked.engine
    spec.engine_settings.CopyFrom(settings)
    return Deployable(
        stem=stem,
        spec=spec,
        engine=engine.name,
        base=facts,
        adapter_manifest_digest=digest,
        engine_model=engine_model,
    )


def check_replicas(wanted: int, field: str) -> int:
    """Return a number of replicas that is asked for.

    Raises:
        TunefleetError: FIELD_INVALID if it is not one from 1 to 100.
    """
    if not 1 <= wanted <= _MOST_REPLICAS:
        raise TunefleetError.field(field, f"must be from 1 to {_MOST_REPLICAS}, not {wanted}")
    return wanted


def _share_engine(
    spec: DeploymentSpec, beside: DeploymentRow, base: BaseFacts, engine: str, rank: int
) -> None:
    """Fill in the settings of the version that serves, where its engine can take the new one too."""
    is_same = engine == beside.engine and base.SerializeToString() == beside.base_facts
    if spec.HasField("engine_settings") or not is_same:
        return
    served = DeploymentSpec.FromString(beside.spec)
    spec.max_context_tokens = spec.max_context_tokens or served.max_context_tokens
    settings = EngineSettings()
    settings.CopyFrom(served.engine_settings)
    for decided in ("chat_template", "quantization"):
        settings.ClearField(decided)
    if settings.max_adapter_rank and settings.max_adapter_rank < rank:
        settings.max_adapter_rank = 0  # it has no room there: another engine is started
    spec.engine_settings.CopyFrom(settings)


async def _base_as_trained(resolver: Resolver, trained: TrainedModel) -> BaseFacts:
    """Return the base of an adapter as it is now.

    Raises:
        TunefleetError: BASE_INVALID if it is not what the adapter was trained on.
    """
    base = trained.resolved.base
    if base.path and not base.manifest_digest:  # a manifest is what it is for ever
        trained.require_base(await resolver.base_facts(trained.question), verb="served")
    return base


async def _whole_model(resolver: Resolver, trained: TrainedModel) -> BaseFacts:
    """Return a whole model of the store as the base that an engine serves."""
    question = trained.question
    if not trained.resolved.base.path:  # its backend does not look at bases, and so at no whole model
        return BaseFacts(model=question.model, manifest_digest=question.manifest_digest)
    return await resolver.base_facts(question)


def _slug(model: str) -> str:
    """Return an id for a base that was deployed by folder or Hub id."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    slug = re.sub(r"[^a-z0-9]+", "-", last).strip("-")
    return (slug if slug[:1].isalpha() else f"base-{slug}")[:63].rstrip("-")
