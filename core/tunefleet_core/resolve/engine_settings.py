"""How an engine runs a deployment: what was asked for checked, what was left out decided.

Decided where the deployment is made: the engine reads the result and asks nothing of its own
family plugin, like a job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import cast

from google.protobuf import json_format
from google.protobuf.message import Message

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet.type.v1.engine_pb2 import EngineSettings
from tunefleet_core.backend import has_capability
from tunefleet_core.catalog import EngineParsers, EngineRegistry, engine_registries
from tunefleet_core.catalog.matrix import Published, Standing, judge_class, nearest_ranks
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

__all__ = ["NO_PARSER", "settle_engine"]

NO_PARSER = "none"
_FIELD = "spec.engine_settings"
_DECIDED = ("chat_template", "quantization")
_DRAFTED = "speculation.draft_model"
"""In a manifest: it guesses tokens by a draft model, and in no other way."""
_GUESSERS = "vllm and sglang guess by n-grams or a draft model, mlx by a draft model"
_USUAL_RANK = 64
"""The highest rank of the presets: adapters up to it share an engine."""
_USUAL_ADAPTERS = 8
_ROUNDED_DTYPE = "bfloat16"
"""Kernels for rounded weights compute in 16 bits: vLLM 0.32 takes float32 and fails on the first token."""


def settle_engine(
    asked: EngineSettings,
    manifest: BackendManifest,
    *,
    base: BaseFacts,
    parsers: EngineParsers | None = None,
    template: ChatTemplate | None = None,
    rank: int = 0,
) -> EngineSettings:
    """Return the settings of an engine, all decided.

    Args:
        asked: What the deployment asks for.
        manifest: The engine.
        base: What it serves.
        parsers: What the engine calls the family's parsers.
        template: The chat template that an adapter or model was trained with; None: not known.
        rank: Rank of the adapter; 0: there is none.

    Raises:
        TunefleetError: FIELD_INVALID naming what the engine has no setting for, or every value
            that it does not take, with the nearest one that it does.
    """
    settings = EngineSettings()
    settings.CopyFrom(asked)
    known = engine_registries().get(manifest.name)
    if found := [*_unknown(asked, manifest), *_wrong(asked), *_unlisted(asked, known)]:
        raise TunefleetError(
            Reason.FIELD_INVALID,
            f"The settings of the engine '{manifest.name}' are wrong: {found[0].description}.",
            hint=f"It takes: {', '.join(manifest.engine_settings) or 'none'}.",
            violations=tuple(found),
        )
    takes = set(manifest.engine_settings)
    if parsers is not None and "tool_parser" in takes:
        settings.tool_parser = settings.tool_parser or parsers.tool
    if parsers is not None and "reasoning_parser" in takes:
        settings.reasoning_parser = settings.reasoning_parser or parsers.reasoning
    if "dtype" in takes and base.quantization.format:
        settings.dtype = settings.dtype or _ROUNDED_DTYPE
    if "max_adapter_rank" in takes and _takes_adapters(manifest.name, base):
        _make_room(settings, manifest.name, rank)
    # The base's own template is what the engine renders with anyway: such deployments share an engine.
    has_own = has_capability(manifest, Capability.CAPABILITY_ADAPTER_TEMPLATES)
    if template is not None and template.source != "base" and not has_own:
        settings.chat_template = template.text
    return settings


def _make_room(settings: EngineSettings, engine: str, rank: int) -> None:
    settings.max_adapters = settings.max_adapters or _USUAL_ADAPTERS
    if not settings.max_adapter_rank:
        least = max(rank, _USUAL_RANK)
        above = (near for near in nearest_ranks(engine, least) if near > least)
        settings.max_adapter_rank = next(above, least)
    elif settings.max_adapter_rank < rank:
        raise TunefleetError.field(
            f"{_FIELD}.max_adapter_rank", f"is {settings.max_adapter_rank}, and the adapter's rank is {rank}"
        )


def _takes_adapters(engine: str, base: BaseFacts) -> bool:
    published = Published(model_types=(base.model_type,), architectures=tuple(base.architectures))
    return judge_class(engine, published, is_adapter=True).standing is not Standing.NO


def _given(asked: EngineSettings) -> Iterator[str]:
    for field, _ in cast("Message", asked).ListFields():
        yield field.name


def _unknown(asked: EngineSettings, manifest: BackendManifest) -> Iterator[FieldViolation]:
    for name in _given(asked):
        if name in _DECIDED:
            yield _violation(name, "is decided from what is served and cannot be given")
        elif name == "speculation" and _DRAFTED in manifest.engine_settings:
            guessing = asked.speculation
            if not guessing.draft_model or guessing.method not in ("", "draft_model"):
                why = f"the engine '{manifest.name}' guesses by a draft model alone: name its folder"
                yield _violation(_DRAFTED, f"{why}; {_GUESSERS}")
        elif name not in manifest.engine_settings:
            more = f"; {_GUESSERS}" if name == "speculation" else ""
            yield _violation(name, f"is no setting of the engine '{manifest.name}'{more}")


def _wrong(asked: EngineSettings) -> Iterator[FieldViolation]:
    if not 0 <= asked.memory_share <= 1:
        yield _violation("memory_share", f"must be above 0 and up to 1, not {asked.memory_share:g}")
    for name in ("tensor_parallel", "pipeline_parallel", "data_parallel", "max_adapters", "max_adapter_rank"):
        if getattr(asked, name) < 0:
            yield _violation(name, f"must not be negative, is {getattr(asked, name)}")
    if asked.HasField("speculation") and asked.speculation.tokens < 1:
        yield _violation("speculation.tokens", "must be at least 1: the tokens guessed per step")


def _unlisted(asked: EngineSettings, known: EngineRegistry | None) -> Iterator[FieldViolation]:
    if known is None:
        return
    for name, listed in (("tool_parser", known.tool_parsers), ("reasoning_parser", known.reasoning_parsers)):
        value = getattr(asked, name)
        if value and value != NO_PARSER and value not in listed:
            yield _violation(name, f"'{value}' is no parser of {known.distribution}{_nearest(value, listed)}")
    rank = asked.max_adapter_rank
    if rank and known.lora_ranks and rank not in known.lora_ranks:
        ranks = ", ".join(map(str, known.lora_ranks))
        yield _violation("max_adapter_rank", f"is {rank}; {known.distribution} takes {ranks}")
    options = json_format.MessageToDict(cast("Message", asked.options))
    for name in sorted(options) if known.options else ():
        if name not in known.options:
            # It takes any beginning of an option, and so might take one for another.
            near = _nearest(name, known.options)
            yield _violation(f"options.{name}", f"'{name}' is no option of {known.distribution}{near}")


def _nearest(value: str, listed: Sequence[str]) -> str:
    near = get_close_matches(value, listed, n=2) or [name for name in listed if name.startswith(value)][:2]
    return f"; the nearest: {', '.join(near)}" if near else ""


def _violation(name: str, why: str) -> FieldViolation:
    return FieldViolation(field=f"{_FIELD}.{name}", description=why)
