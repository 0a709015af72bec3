"""Adapters, for every method: LoRA, and learned embeddings before a prompt."""

from __future__ import annotations

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.catalog.matrix import nearest_ranks
from tunefleet_core.resolve.defaults.filling import Defaults
from tunefleet_core.spec import DEFAULT_RANK, neutral_alpha

__all__ = ["fill_lora", "fill_prompt_tuning"]

_VIRTUAL_TOKENS = 20


def fill_lora(defaults: Defaults, spec: JobSpec) -> None:
    """Fill a LoRA adapter."""
    lora = spec.train.adapter.lora
    rank, why = _rank(spec.train.intended_serving.engine)
    defaults.fill("train.adapter.lora.rank", rank, why)
    defaults.fill("train.adapter.lora.rslora", False, "plain LoRA, which every engine serves as trained")
    defaults.fill("train.adapter.lora.dora", False, "few engines serve DoRA adapters")
    alpha_why = (
        "the square root of the rank: rsLoRA's scale alpha / sqrt(rank) is 1 at every rank"
        if lora.rslora
        else "equal to the rank: scale 1 at every rank"
    )
    defaults.fill("train.adapter.lora.alpha", neutral_alpha(lora), alpha_why)
    defaults.fill("train.adapter.lora.targets", ["all-linear"], "attention and MLP, as the family says")
    defaults.fill("train.adapter.lora.experts", False, "attention and dense layers; experts are an option")
    if lora.experts:
        dropout, why = 0.0, "the library has no dropout for adapters on routed experts"
    else:
        dropout, why = 0.05, "mild regularisation; 0.1 against over-fitting"
    defaults.fill("train.adapter.lora.dropout", dropout, why)
    defaults.fill("train.merge", False, "the adapter stays apart: small, and swapped while the engine runs")


def fill_prompt_tuning(defaults: Defaults) -> None:
    """Fill learned embeddings, and the rate that they need."""
    field = "train.adapter.prompt_tuning.num_virtual_tokens"
    defaults.fill(field, _VIRTUAL_TOKENS, "more than 20 gain little (Lester et al. 2021)")
    defaults.fill(
        "train.optim.learning_rate",
        1e-2,
        "few numbers, far from the loss: they need a far higher rate than LoRA",
    )


def _rank(engine: str) -> tuple[int, str]:
    """Return the usual rank, or the next one that the intended engine has."""
    near = nearest_ranks(engine, DEFAULT_RANK)
    if near:
        return near[0], f"the rank nearest to {DEFAULT_RANK} that {engine} serves"
    return DEFAULT_RANK, "enough for style and format; 64 for harder tasks"
