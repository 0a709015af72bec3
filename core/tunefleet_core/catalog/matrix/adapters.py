"""What is particular about an adapter: the traits by which engines take it or do not.

Read from a spec before it is trained, or from the `adapter_config.json` that PEFT wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from tunefleet.job.v1.spec_pb2 import JobSpec, LoraAdapter
from tunefleet_core.spec.lora_scale import written_rank

__all__ = [
    "ADAPTATIONS",
    "BIAS",
    "DORA",
    "EXPERTS",
    "INIT",
    "MODULES",
    "PROMPT",
    "RANK",
    "RSLORA",
    "Trait",
    "adaptation_of",
    "config_traits",
    "spec_traits",
]

ADAPTATIONS = ("full", "lora", "rslora", "dora", "expert_lora", "prompt_tuning")
"""Ways of adapting a model, the plainest adapter first."""

DORA, RSLORA, EXPERTS, RANK = "dora", "rslora", "experts", "rank"
INIT, MODULES, BIAS, PROMPT = "init", "modules_to_save", "bias", "prompt_tuning"

_LORA = "train.adapter.lora"
_PROMPT_TUNING = "train.adapter.prompt_tuning"
_OPTIONS = "backend_options"
# What changes the weights of the base before the first step: pissa_niter_4 is one of these too.
_BASE_CHANGING = ("pissa", "loftq", "olora", "corda", "lora_ga")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """Something about an adapter that an engine may refuse.

    Attributes:
        kind: One of the names above.
        field: Field of the spec that asks for it.
        value: Its value: a rank, the name of an initialisation.
    """

    kind: str
    field: str
    value: str = ""

    @property
    def words(self) -> str:
        """How it is named in a sentence."""
        return f"{self.kind} {self.value}".strip()


def adaptation_of(lora: LoraAdapter | None) -> str:
    """Return how a model is adapted; None: every weight is trained. The rarest word counts."""
    if lora is None:
        return "full"
    for adaptation, asked in (("expert_lora", lora.experts), ("dora", lora.dora), ("rslora", lora.rslora)):
        if asked:
            return adaptation
    return "lora"


def spec_traits(spec: JobSpec) -> tuple[Trait, ...]:
    """Return the traits of the adapter that a spec asks for; none without one.

    PEFT's own names for an initialisation, for modules that are trained whole and for a
    bias count too where a backend takes them as options.
    """
    if spec.train.adapter.HasField("prompt_tuning"):
        return (Trait(kind=PROMPT, field=_PROMPT_TUNING),)
    if not spec.train.adapter.HasField("lora"):
        return ()
    lora = spec.train.adapter.lora
    found = [Trait(kind=RANK, field=f"{_LORA}.rank", value=str(written_rank(spec.train)))]
    for kind, asked in ((DORA, lora.dora), (RSLORA, lora.rslora), (EXPERTS, lora.experts)):
        if asked:
            found.append(Trait(kind=kind, field=f"{_LORA}.{kind}"))
    if lora.modules_to_save:
        modules = ", ".join(lora.modules_to_save)
        found.append(Trait(kind=MODULES, field=f"{_LORA}.modules_to_save", value=modules))
    return (*found, *_peft_traits(_plain(spec), _OPTIONS))


def config_traits(config: Mapping[str, object]) -> tuple[Trait, ...]:
    """Return the traits of an adapter from its `adapter_config.json`."""
    if config.get("peft_type") == "PROMPT_TUNING":
        return (Trait(kind=PROMPT, field="peft_type"),)
    rank = config.get("r")
    found = [Trait(kind=RANK, field="r", value=str(rank))] if isinstance(rank, int) else []
    for kind, name in ((DORA, "use_dora"), (RSLORA, "use_rslora"), (EXPERTS, "target_parameters")):
        if config.get(name):
            found.append(Trait(kind=kind, field=name))
    return (*found, *_peft_traits(config, ""))


def _plain(spec: JobSpec) -> Mapping[str, object]:
    if not spec.backend_options.fields:
        return {}
    names = ("init_lora_weights", "modules_to_save", "bias")
    given = spec.backend_options
    return {name: given[name] for name in names if name in given}


def _peft_traits(config: Mapping[str, object], parent: str) -> Iterator[Trait]:
    def named(field: str) -> str:
        return f"{parent}.{field}" if parent else field

    init = str(config.get("init_lora_weights") or "").lower()
    if init.startswith(_BASE_CHANGING):
        yield Trait(kind=INIT, field=named("init_lora_weights"), value=init)
    modules = config.get("modules_to_save")
    if modules:
        names = [modules] if isinstance(modules, str) else [str(item) for item in _items(modules)]
        yield Trait(kind=MODULES, field=named("modules_to_save"), value=", ".join(names))
    bias = config.get("bias")
    if isinstance(bias, str) and bias not in ("", "none"):
        yield Trait(kind=BIAS, field=named("bias"), value=bias)


def _items(value: object) -> Sequence[object]:
    try:
        return list(cast("Sequence[object]", value))
    except TypeError:
        return ()
