"""First half of resolving: what the facts of a base decide, and what to ask of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.job.v1.event_pb2 import Notice
from tunefleet.job.v1.resolved_pb2 import ChatTemplate, CompanionModel, ResolvedAdapter
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog import (
    ChosenTemplate,
    Family,
    choose_template,
    in_layers,
    require_whole_modules,
    select_target_modules,
    select_target_parameters,
)
from tunefleet_core.errors import TunefleetError
from tunefleet_core.resolve.defaults import distill, online
from tunefleet_core.resolve.notice import info

__all__ = ["Draft", "draft_evaluate", "draft_train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A job half resolved: it waits for the audit of its rows.

    Attributes:
        spec: What was asked for, unchanged.
        facts: The base.
        family: Its family.
        template: The chat template that is used.
        target_modules: Full names of the modules that get an adapter; empty: none do.
        audit_order: What to ask the backend's inspect facet.
        target_parameters: Full names of the parameters of routed experts that get an adapter.
        adapter: The adapter to score, for `evaluate`.
        notices: What a person should know so far.
        companions: The models that are read beside the base.
    """

    spec: JobSpec
    facts: BaseFacts
    family: Family
    template: ChatTemplate
    target_modules: tuple[str, ...]
    audit_order: AuditOrder
    target_parameters: tuple[str, ...] = ()
    adapter: ResolvedAdapter | None = None
    notices: tuple[Notice, ...] = ()
    companions: tuple[CompanionModel, ...] = ()


def draft_train(
    spec: JobSpec,
    facts: BaseFacts,
    family: Family,
    *,
    frozen_time_seconds: int = 0,
    companions: Sequence[CompanionModel] = (),
) -> Draft:
    """Draft a training job.

    Args:
        spec: A valid spec with `train`.
        facts: What was read of its base.
        family: The family of the base.
        frozen_time_seconds: What the template's clock answers with, if it asks.
        companions: The models that `companions_of` wants, as found.

    Raises:
        TunefleetError: FIELD_INVALID for targets or experts that the base does not have.
    """
    train = spec.train
    targets: list[str] = []
    experts: list[str] = []
    if train.adapter.WhichOneof("adapter") == "lora":
        lora = train.adapter.lora
        targets = in_layers(select_target_modules(facts, family, lora.targets), lora.layers)
        if lora.experts:
            experts = in_layers(select_target_parameters(facts, family), lora.layers)
        require_whole_modules(facts, lora.modules_to_save)
    elif train.adapter.HasField("prompt_tuning") and family.reads_ids:
        raise TunefleetError.field(
            "train.adapter.prompt_tuning",
            f"the family {family.name} cannot: {family.reads_ids}",
            hint="Use adapter: {lora: {}}, or another base.",
        )
    chosen = choose_template(facts, family, frozen_time_seconds=frozen_time_seconds)
    files = [AuditFile(role="train", path=source.source) for source in train.data.train]
    if train.data.validation:
        files.append(AuditFile(role="validation", path=train.data.validation))
    if train.data.general:
        files.append(AuditFile(role="general", path=train.data.general))
    order = AuditOrder(files=files, max_length=train.max_length, loss_on=train.loss_on or "assistant")
    order.method = train.method.WhichOneof("method") or "sft"
    order.packing = train.method.sft.packing
    if distill.writes_rows(train):
        order.endpoint.CopyFrom(train.method.distill.teacher.endpoint)
    elif order.method == distill.METHOD:
        order.method = "sft"  # rows as for it
    if order.method in online.METHODS:
        order.rewards.extend(getattr(train.method, order.method).rewards)
    order.companions.extend(companions)
    draft = _draft(spec, facts, family, chosen, order, targets=targets, experts=experts)
    return replace(draft, companions=tuple(companions))


def draft_evaluate(
    spec: JobSpec,
    facts: BaseFacts,
    family: Family,
    *,
    template: ChatTemplate | None = None,
    adapter: ResolvedAdapter | None = None,
    frozen_time_seconds: int = 0,
) -> Draft:
    """Draft an evaluation.

    Args:
        spec: A valid spec with `evaluate`.
        facts: What was read of the base.
        family: The family of the base.
        template: The template an adapter was trained with; None: choose one for the base.
        adapter: The adapter to score; None: the base alone.
        frozen_time_seconds: What a chosen template's clock answers with, if it asks.
    """
    if template is not None:
        chosen = ChosenTemplate(template=template)  # proven when the adapter was trained
    else:
        chosen = choose_template(facts, family, frozen_time_seconds=frozen_time_seconds)
    files = [AuditFile(role="evaluate", path=spec.evaluate.data)]
    if spec.evaluate.examples:
        files.append(AuditFile(role="examples", path=spec.evaluate.examples))
    return _draft(spec, facts, family, chosen, AuditOrder(files=files, loss_on="assistant"), adapter=adapter)


def _draft(
    spec: JobSpec,
    facts: BaseFacts,
    family: Family,
    chosen: ChosenTemplate,
    order: AuditOrder,
    *,
    targets: Sequence[str] = (),
    experts: Sequence[str] = (),
    adapter: ResolvedAdapter | None = None,
) -> Draft:
    order.base.CopyFrom(facts)
    order.chat_template.CopyFrom(chosen.template)
    order.must_match_template = chosen.must_match
    return Draft(
        spec=spec,
        facts=facts,
        family=family,
        template=chosen.template,
        target_modules=tuple(targets),
        target_parameters=tuple(experts),
        audit_order=order,
        adapter=adapter,
        notices=(info(chosen.notice),) if chosen.notice else (),
    )
