"""Servable before trained: what an engine cannot serve is refused before it costs a run.

What each engine serves is asked of the matrix (`catalog.matrix`), the same that is shown:
this module turns its answers into refusals and warnings for one job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import cast

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.job.v1.event_pb2 import Notice
from tunefleet.job.v1.spec_pb2 import JobSpec, TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import has_capability
from tunefleet_core.catalog import Family
from tunefleet_core.catalog.matrix import (
    ENGINES,
    PROMPT,
    Published,
    Trait,
    judge_adapter,
    judge_class,
    spec_traits,
)
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError
from tunefleet_core.resolve.notice import warning
from tunefleet_core.spec import is_given_back

__all__ = ["require_base_servable", "require_deployable", "require_servable", "serving_notices"]

_ENGINE_FIELD = "train.intended_serving.engine"
_PLAIN = ("rank",)
"""Traits that every adapter has."""
_ONLY_MERGED = ("experts",)
"""Traits that no engine serves, and that are trained all the same to be merged later."""


def require_servable(spec: JobSpec, manifest: BackendManifest | None = None) -> None:
    """Refuse an adapter that the engine it is meant for cannot serve, unless it is merged.

    Without an intended engine, an adapter is refused only if no known engine serves it.

    Args:
        spec: A spec with `train`.
        manifest: Who trains it; None: any that merges.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED naming the field, with `merge: true` or the
            nearest value that works as the way out.
    """
    train = spec.train
    if train.merge or not train.HasField("adapter"):
        return
    merges = manifest is None or has_capability(manifest, Capability.CAPABILITY_MERGE)
    engine = train.intended_serving.engine
    if engine:
        for trait in spec_traits(spec):
            verdict = judge_adapter(engine, [trait])
            if not verdict.works:
                why = f"the engine '{engine}' cannot serve it: {verdict.reason}"
                # A rank that is doubled when it is written has no neighbour of the same name.
                instead = "" if is_given_back(train) else verdict.instead
                raise _refusal(trait, why, engine=engine, instead=instead, merges=merges)
        return
    for trait in spec_traits(spec):
        if trait.kind not in _ONLY_MERGED and not _who_serves(trait):
            why = "no engine of the fleet serves it as an adapter"
            raise _refusal(trait, why, engine="", instead="", merges=merges)


def require_base_servable(spec: JobSpec, manifest: BackendManifest, facts: BaseFacts, family: Family) -> None:
    """Refuse a base that the intended engine has no class for, or takes no adapters on.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED with the nearest engine that has.
    """
    train = spec.train
    engine = train.intended_serving.engine
    if not engine:
        return
    base = Published(family=family.name, model_types=(facts.model_type,), architectures=_architectures(facts))
    is_adapter = train.adapter.HasField("lora") and not train.merge
    verdict = judge_class(engine, base, is_adapter=is_adapter)
    if verdict.works:
        return
    hints: list[str] = []
    merges = is_adapter and has_capability(manifest, Capability.CAPABILITY_MERGE)
    if merges and judge_class(engine, base, is_adapter=False).works:
        hints.append("add 'merge: true' under train")
    others = [name for name in ENGINES if judge_class(name, base, is_adapter=is_adapter).works]
    if others:
        hints.append(f"set {_ENGINE_FIELD}: {others[0]}")
    what = f"the engine '{engine}' cannot serve '{facts.model or facts.path}': {verdict.reason}"
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"{_ENGINE_FIELD}: {what}.",
        hint=_sentence(hints) or "Leave it out, or choose another base.",
        metadata={"field": _ENGINE_FIELD, "engine": engine, "capability": "BASE"},
        violations=(FieldViolation(field=_ENGINE_FIELD, description=what),),
    )


def require_deployable(train: TrainSpec, engine: str) -> None:
    """Refuse to start an engine for a trained adapter that it cannot serve.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED, with the merged model as the way out.
    """
    for trait in spec_traits(JobSpec(train=train)):
        verdict = judge_adapter(engine, [trait])
        if not verdict.works:
            raise TunefleetError(
                Reason.CAPABILITY_UNSUPPORTED,
                f"The engine '{engine}' cannot serve this adapter ({trait.words}): {verdict.reason}.",
                hint=f"Deploy it with the engine {' or '.join(_who_serves(trait))}."
                if trait.kind == PROMPT
                else "Merge it, and deploy the merged model: tunefleet export NAME",
                metadata={"engine": engine, "capability": trait.kind.upper()},
            )


def serving_notices(spec: JobSpec) -> Iterator[Notice]:
    """Yield a warning where no engine serves an adapter as it is, or nothing is known of the one meant."""
    train = spec.train
    engine = train.intended_serving.engine
    if train.merge or not train.HasField("adapter"):
        return
    rare = [trait for trait in spec_traits(spec) if trait.kind not in _PLAIN]
    if not engine and any(trait.kind in _ONLY_MERGED for trait in rare):
        yield warning(
            "No engine serves an adapter on routed experts: it is useful only merged.",
            hint="Set train.merge: true, or merge it later with an export job.",
        )
    if not engine or engine in ENGINES:
        return
    for trait in rare:
        yield warning(
            f"Nothing is known of how '{engine}' serves an adapter with {trait.words}.",
            hint="Set train.merge: true for a model that every engine serves.",
        )


# Engines and their registries never change while a process runs, and jobs ask for few traits.
@lru_cache(maxsize=1_000)
def _who_serves(trait: Trait) -> tuple[str, ...]:
    return tuple(engine for engine in ENGINES if judge_adapter(engine, [trait]).works)


def _architectures(facts: BaseFacts) -> tuple[str, ...]:
    try:
        config: object = json.loads(facts.config_json or "{}")
    except ValueError:
        return ()
    names = cast("dict[str, object]", config).get("architectures") if isinstance(config, dict) else None
    return tuple(str(name) for name in cast("list[object]", names)) if isinstance(names, list) else ()


def _refusal(trait: Trait, why: str, *, engine: str, instead: str, merges: bool) -> TunefleetError:
    ways = ["add 'merge: true' under train to get a whole model"] if merges and trait.kind != PROMPT else []
    if trait.kind == PROMPT:
        ways += [f"set {_ENGINE_FIELD}: {name}" for name in _who_serves(trait)[:1]]
        ways.append("use adapter: {lora: {}}")
    else:
        ways.append(f"set {trait.field} to {instead}" if instead else f"leave {trait.field} out")
    return TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"{trait.field}: {why}.",
        hint=_sentence(ways),
        metadata={"field": trait.field, "engine": engine, "capability": trait.kind.upper()},
        violations=(FieldViolation(field=trait.field, description=why),),
    )


def _sentence(ways: Sequence[str]) -> str:
    joined = ", or ".join(ways)
    return f"{joined[:1].upper()}{joined[1:]}." if joined else ""
