"""What each engine serves: adapters by their traits, models by their class.

What an engine's own registries list (classes, ranks) is read from `catalog/engines`, which
a script writes. What only its source, its documentation or a try can say stands here, with
the version and where it was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunefleet_core.catalog.engines import EngineRegistry, engine_registries
from tunefleet_core.catalog.matrix.adapters import BIAS, DORA, EXPERTS, INIT, MODULES, PROMPT, RANK, Trait
from tunefleet_core.catalog.matrix.standing import Standing, Verdict

__all__ = ["ENGINES", "EngineFacts", "Published", "judge_adapter", "judge_class", "nearest_ranks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What is known of an engine beyond its registries.

    Attributes:
        source: Version, and where it was read or that it was tried.
        refuses: Kind of trait to why the engine cannot serve such an adapter.
        only_modules: Whole-trained modules that it takes all the same.
        fails: Families that it might be thought to load and does not, with why.
        fails_adapters: Families that it loads and takes no usual adapter on, with why.
    """

    source: str
    refuses: Mapping[str, str] = field(default_factory=dict[str, str])
    only_modules: tuple[str, ...] = ()
    fails: Mapping[str, str] = field(default_factory=dict[str, str])
    fails_adapters: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """How bases name themselves in config.json: one base, or all of a family.

    Attributes:
        family: Name of the family; empty: any.
        model_types: Values of `model_type`.
        architectures: Values of `architectures`; empty: not known.
    """

    family: str = ""
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()


_CHANGED_BASE = "its initialisation changes the weights of the base, so the adapter alone is not the update"

ENGINES: Mapping[str, EngineFacts] = {
    "embedded": EngineFacts(
        source="PEFT 0.21.2, tried in mixed batches",
        refuses={
            DORA: "it cannot mix DoRA with other adapters in a batch",
            EXPERTS: "a batch of several adapters cannot tell whose tokens reach an expert",
            INIT: _CHANGED_BASE,
            MODULES: "it keeps one base for all adapters, and modules that were trained whole are none",
            BIAS: "it keeps one base for all adapters, and a bias is part of it",
        },
        fails={
            "deepseek_v4": "it keeps no cache for layers of compressed attention",
            "llama4": "it keeps no cache for layers of chunked attention",
            "qwen3_5": "it keeps no cache for layers of linear attention",
        },
        fails_adapters={
            "deepseek_v3": "a target of all-linear sees tokens of several requests mixed there",
        },
    ),
    "vllm": EngineFacts(
        source="vllm/lora/peft_helper.py and docs/features/lora.md of vLLM 0.33",
        refuses={
            DORA: "its loader refuses DoRA",
            # vllm-project/vllm pull requests 41384 and 52194, closed without being merged.
            EXPERTS: "it takes PEFT's factors for 3-D experts the wrong way round, and drops them or fails",
            INIT: _CHANGED_BASE,
            MODULES: "its loader refuses modules that were trained whole",
            BIAS: "its loader refuses a bias in adapters",
            PROMPT: "its loader takes adapters of the kind LORA alone",
        },
        only_modules=("classifier", "score"),
    ),
    "sglang": EngineFacts(
        # It serves alpha / rank whatever is asked: plugins/sglang writes an alpha that is the trained scale.
        source="sglang/srt/lora of SGLang 0.5.23 behind plugins/sglang, tried without its kernels",
        refuses={
            DORA: "it refuses DoRA",
            # sgl-project/sglang pull requests 25528 and 27381, closed without being merged.
            EXPERTS: "its loader passes over the names that PEFT gives to factors of 3-D experts",
            INIT: _CHANGED_BASE,
            MODULES: "its loader passes over modules that were trained whole",
            BIAS: "its loader passes over a bias in adapters",
            PROMPT: "its loader takes adapters of the kind LORA alone",
        },
    ),
    "mlx": EngineFacts(
        source="mlx-lm 0.32.2 behind plugins/mlx's engine, tried",
        refuses={
            EXPERTS: "PEFT's factors for 3-D experts have no counterpart in mlx-lm",
            INIT: _CHANGED_BASE,
            MODULES: "mlx-lm has no place in an adapter for modules that were trained whole",
            BIAS: "mlx-lm has no place in an adapter for a bias",
            PROMPT: "mlx-lm has no place in an adapter for learned embeddings",
        },
        fails={
            "qwen3_moe": "mlx-lm 0.32.2 does not read the configuration that transformers 5 writes",
            "qwen3_5": "mlx-lm 0.32.2 failed to load its text model",
            "gpt_oss": "mlx-lm 0.32.2 loads it in MXFP4 only, not as unquantised weights",
        },
    ),
}
"""Engine name to what is known of it. An engine that is not here is taken at its word."""


def judge_adapter(engine: str, traits: Sequence[Trait]) -> Verdict:
    """Return whether an engine serves an adapter with these traits as it was trained.

    `instead` is filled in only where another value of the same field helps.
    """
    facts = ENGINES.get(engine)
    if facts is None:
        return Verdict(standing=Standing.UNKNOWN, reason=f"nothing is known of the engine '{engine}'")
    for trait in traits:
        if trait.kind == RANK:
            why, instead = _rank_refusal(engine, int(trait.value))
        else:
            why, instead = _trait_refusal(facts, trait), ""
        if why:
            return Verdict(standing=Standing.NO, reason=why, field=trait.field, instead=instead)
    return Verdict(standing=Standing.STATED, reason=f"adapters: {facts.source}")


def judge_class(engine: str, base: Published, *, is_adapter: bool) -> Verdict:
    """Return whether an engine has a model class for a base, and one that takes adapters if it is to."""
    facts, listed = ENGINES.get(engine), engine_registries().get(engine)
    if facts is None:
        return Verdict(standing=Standing.UNKNOWN, reason=f"nothing is known of the engine '{engine}'")
    if is_adapter and base.family in facts.fails_adapters:
        return Verdict(standing=Standing.NO, reason=facts.fails_adapters[base.family])
    if base.family in facts.fails:
        return Verdict(standing=Standing.NO, reason=facts.fails[base.family])
    if listed is None or not (listed.architectures or listed.model_types):  # runs what the library runs
        return Verdict(standing=Standing.STATED, reason=f"classes of the library: {facts.source}")
    classes, names = (
        (listed.architectures, base.architectures)
        if listed.architectures
        else (listed.model_types, base.model_types)
    )
    if not names:
        return Verdict(standing=Standing.UNKNOWN, reason=f"the class of '{base.family}' is not known")
    found = [name for name in names if name in classes]
    if not found:
        return Verdict(standing=Standing.NO, reason=f"{listed.distribution} has none of {', '.join(names)}")
    return _adapters_on(listed, found) if is_adapter else _stated(listed, f"lists {found[0]}")


def _adapters_on(listed: EngineRegistry, found: Sequence[str]) -> Verdict:
    """Return whether an engine takes adapters on one of the classes it has."""
    if not listed.lora_architectures:  # its registry does not tell such classes apart
        return _stated(listed, f"lists {found[0]}")
    takes = [name for name in found if name in listed.lora_architectures]
    if takes:
        return _stated(listed, f"takes adapters on {takes[0]}")
    if any(name in listed.unread_architectures for name in found):
        return Verdict(
            standing=Standing.UNKNOWN,
            reason=f"{listed.distribution} was not asked about adapters on {found[0]}",
        )
    return Verdict(
        standing=Standing.NO, reason=f"{listed.distribution} takes no adapters on {', '.join(found)}"
    )


def _stated(listed: EngineRegistry, what: str) -> Verdict:
    return Verdict(standing=Standing.STATED, reason=f"{listed.distribution} {what}")


def nearest_ranks(engine: str, rank: int) -> tuple[int, ...]:
    """Return the ranks around one that an engine's list lacks, the next higher first; empty: any will do."""
    ranks = _ranks(engine)
    if not ranks or rank in ranks:
        return ()
    above = tuple(known for known in ranks if known > rank)[:1]
    below = tuple(known for known in ranks if known < rank)[-1:]
    return above + below


def _rank_refusal(engine: str, rank: int) -> tuple[str, str]:
    near = nearest_ranks(engine, rank)
    if not near:
        return "", ""
    ranks = _ranks(engine)
    listed = ", ".join(map(str, ranks))
    if rank > ranks[-1]:
        why = f"the largest rank it serves is {ranks[-1]}, and this is {rank}"
    else:
        why = f"its ranks are {listed}; {rank} is none, and would take the room of {near[0]} in every slot"
    return why, " or ".join(map(str, near))


def _trait_refusal(facts: EngineFacts, trait: Trait) -> str:
    if trait.kind == MODULES and set(trait.value.split(", ")) <= set(facts.only_modules):
        return ""
    return facts.refuses.get(trait.kind, "")


def _ranks(engine: str) -> tuple[int, ...]:
    listed = engine_registries().get(engine)
    return listed.lora_ranks if listed else ()
