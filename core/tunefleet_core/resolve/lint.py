"""The recipe lint: every resolved value held against one table of what is usual, with sources.

Nothing is refused here: a value outside its range runs, with a warning that says what the
value usually is and where that is from. What cannot work at all is refused elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tunefleet.job.v1.event_pb2 import Notice
from tunefleet_core.resolve.defaults import default_length, online, reward, shown
from tunefleet_core.resolve.lint_ranges import RANGES
from tunefleet_core.resolve.recipe import Finding, Recipe, Rule
from tunefleet_core.spec import effective_scale, scale_formula

__all__ = ["RULES", "lint"]

_PREFERENCE = ("dpo", "ipo", "kto", "orpo", "simpo")
_FEW_ROWS, _SMALL_DATA, _MOST_PASSES = 100, 5_000, 3
_VALIDATION_SHARE, _VALIDATION_ROWS = 0.05, (50, 2_000)
_SCALES = (0.5, 4.0)
_MOST_RANK, _MOST_LENGTH, _MOST_NORM = 64, 2, 10.0
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_AUXILIARY = ("router_aux_loss_coef", "aux_loss_alpha")


def lint(recipe: Recipe) -> Iterator[Notice]:
    """Yield a notice for every value of a resolved training job that is not usual."""
    for rule in RULES:
        found = rule.find(recipe)
        if found is not None:
            yield Notice(
                severity="warning" if found.is_trouble else "info",
                text=found.text,
                hint=found.hint,
                field=found.field or rule.field,
                value=shown(found.value),
                usual=found.usual or rule.usual,
                source=found.source or rule.source,
            )


def _few_rows(recipe: Recipe) -> Finding | None:
    if not 0 < recipe.rows < _FEW_ROWS:
        return None
    return Finding(
        text=f"There are only {recipe.rows} training rows; fewer than {_FEW_ROWS} rarely teach a task.",
        hint="Add rows before you tune anything else.",
        value=recipe.rows,
    )


def _no_validation(recipe: Recipe) -> Finding | None:
    if recipe.train.data.validation:
        return None
    least, most = _VALIDATION_ROWS
    share = min(most, max(least, math.ceil(recipe.rows * _VALIDATION_SHARE)), recipe.rows // 5)
    held = f"Hold back about {share:,} rows, and as many again" if share else "Hold back 5 % of the rows"
    return Finding(
        text="There are no validation rows, so over-fitting will not be seen.",
        hint=f"{held} for a test that training never reads; name the file in train.data.validation.",
        value="",
    )


def _scale(recipe: Recipe) -> Finding | None:
    lora = recipe.train.adapter.lora
    if not recipe.is_adapter or not lora.rank:
        return None
    low, high = _SCALES
    scale, formula = effective_scale(lora), scale_formula(lora)
    if math.isclose(scale, 1.0):
        return None
    if low <= scale <= high:
        text = f"The scale {formula} is {scale:g}: it multiplies every update."
        return Finding(text=text, hint="", value=lora.alpha, is_trouble=False)
    return Finding(
        text=f"The scale {formula} is {scale:g}, outside {low:g} to {high:g}: it multiplies every update.",
        hint="Leave train.adapter.lora.alpha out for a scale of 1.",
        value=lora.alpha,
    )


def _high_rank(recipe: Recipe) -> Finding | None:
    lora = recipe.train.adapter.lora
    if not recipe.is_adapter or lora.rank <= _MOST_RANK or lora.rslora:
        return None
    return Finding(
        text=f"Rank {lora.rank} without rsLoRA learns little more than rank {_MOST_RANK}: "
        "alpha / rank damps every further rank.",
        hint="Set train.adapter.lora.rslora: true, or a rank of 64 at most.",
        value=lora.rank,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """The learning rates of one kind of training: below, little is learned; above, it often diverges."""

    kind: str
    low: float
    high: float
    usual: str
    source: str


_QLORA = "Dettmers et al. 2023, arXiv:2305.14314"
_LLAMA2 = "Touvron et al. 2023, arXiv:2307.09288, section 3.1"
_REWARD = "Touvron et al. 2023, arXiv:2307.09288, section 3.2.2"
_DPO = "Rafailov et al. 2023, arXiv:2305.18290"
_GRPO = "Shao et al. 2024, arXiv:2402.03300, section 4.2"
_RATES = {
    ("sft", True): _Rates(kind="an adapter", low=1e-6, high=1e-3, usual="1e-4 to 2e-4", source=_QLORA),
    ("sft", False): _Rates(kind="full fine-tuning", low=1e-7, high=5e-5, usual="1e-5", source=_LLAMA2),
    ("preference", True): _Rates(kind="preference tuning", low=1e-7, high=5e-5, usual="5e-6", source=_DPO),
    ("online", True): _Rates(kind="learning by reward", low=1e-7, high=1e-4, usual="1e-5", source=_GRPO),
    ("online", False): _Rates(
        kind="full learning by reward", low=1e-8, high=1e-5, usual="1e-6", source=_GRPO
    ),
    ("reward", True): _Rates(kind="reward modelling", low=1e-6, high=1e-3, usual="1e-4", source=_REWARD),
    ("reward", False): _Rates(
        kind="full reward modelling", low=1e-7, high=5e-5, usual="1e-5", source=_REWARD
    ),
    ("preference", False): _Rates(
        kind="full preference tuning", low=1e-8, high=5e-6, usual="5e-7", source=_DPO
    ),
}


_PROMPT_RATES = _Rates(
    kind="prompt tuning",
    low=1e-4,
    high=0.5,
    usual="1e-2 to 3e-1",
    source="Lester et al. 2021, arXiv:2104.08691, section 2.1",
)


def _rate(recipe: Recipe) -> Finding | None:
    group = "online" if recipe.method in online.METHODS else "sft"
    group = "preference" if recipe.method in _PREFERENCE else group
    group = "reward" if recipe.method == reward.METHOD else group
    rates, rate = _RATES[group, recipe.is_adapter], recipe.train.optim.learning_rate
    if recipe.train.adapter.HasField("prompt_tuning"):
        rates = _PROMPT_RATES
    if rates.low <= rate <= rates.high:
        return None
    if rate > rates.high:
        text = f"is high for {rates.kind}; above {rates.high:g} training often diverges"
    else:
        text = f"is low for {rates.kind}; below {rates.low:g} little is learned"
    return Finding(
        text=f"The learning rate {rate:g} {text}.",
        hint="Leave train.optim.learning_rate out for the default.",
        value=rate,
        usual=rates.usual,
        source=rates.source,
    )


def _passes(recipe: Recipe) -> Finding | None:
    optim = recipe.train.optim
    if not 0 < recipe.rows < _SMALL_DATA:
        return None
    by_steps = optim.max_steps > 0
    passes = optim.max_steps * optim.batch_size / recipe.rows if by_steps else optim.epochs
    if recipe.train.method.sft.packing and by_steps:
        return None  # how many rows a sequence holds is not known here
    if passes <= _MOST_PASSES:
        return None
    return Finding(
        text=f"{passes:.3g} passes over {recipe.rows:,} rows: past {_MOST_PASSES} a small set is learned "
        "by heart.",
        hint=f"Take {_MOST_PASSES} epochs at most, or add rows.",
        value=optim.max_steps if by_steps else optim.epochs,
        field="train.optim.max_steps" if by_steps else "",
    )


def _half_precision(recipe: Recipe) -> Finding | None:
    if recipe.train.dtype != "float16":
        return None
    return Finding(
        text="float16 overflows where bfloat16 has room: the loss can turn into NaN without a scaler.",
        hint="Leave train.dtype out, which takes bfloat16 where the device has it.",
        value=recipe.train.dtype,
    )


def _clipping(recipe: Recipe) -> Finding | None:
    norm = recipe.train.optim.max_grad_norm
    if 0 < norm <= _MOST_NORM:
        return None
    return Finding(
        text=f"Gradients are clipped at a norm of {norm:g}, which is hardly ever: one odd row can undo "
        "the run.",
        hint="Leave train.optim.max_grad_norm out.",
        value=norm,
    )


def _long(recipe: Recipe) -> Finding | None:
    length, typical = recipe.train.max_length, recipe.typical_length
    if not typical or length <= _MOST_LENGTH * default_length(typical):
        return None
    if recipe.train.over_long == "error" and length <= default_length(recipe.longest):
        return None  # no row may be lost: then the longest decides
    return Finding(
        text=f"max_length {length:,} is far above the 95th percentile of the rows, {typical:,} tokens: "
        "memory is planned for the longest.",
        hint=f"Leave train.max_length out for {default_length(typical)}.",
        value=length,
        usual=f"{default_length(typical)}",
    )


def _bare_base(recipe: Recipe) -> Finding | None:
    if not recipe.is_bare or recipe.method != "sft" or recipe.train.loss_on != "assistant":
        return None
    if not recipe.has_turns:
        return None  # texts are what such a base was taught
    return Finding(
        text="The rows are chats and the base was never taught to chat: it has no chat template.",
        hint="Start from the instruct model of the same family.",
        value=recipe.train.base.model,
    )


def _auxiliary_loss(recipe: Recipe) -> Finding | None:
    experts = next((recipe.config[name] for name in _EXPERT_COUNTS if recipe.config.get(name)), 0)
    name = next((name for name in _AUXILIARY if name in recipe.config), "")
    if not isinstance(experts, int) or experts < 2 or not name or recipe.config[name] != 0:
        return None
    return Finding(
        text=f"The base has {experts} routed experts and {name} is 0: nothing keeps the load from "
        "drifting to a few of them.",
        hint=f"Set {name} in the base's config.json to what the family was published with.",
        value=0,
    )


RULES: tuple[Rule, ...] = (
    Rule(
        name="few-rows",
        field="train.data.train",
        usual="500 rows and more for form, thousands for knowledge",
        source="Zhou et al. 2023, arXiv:2305.11206: 1,000 curated rows",
        find=_few_rows,
    ),
    Rule(
        name="no-validation",
        field="train.data.validation",
        usual="5 % of the rows, 50 to 2,000",
        source="Ouyang et al. 2022, arXiv:2203.02155: validation loss over-fits after one epoch",
        find=_no_validation,
    ),
    Rule(
        name="scale",
        field="train.adapter.lora.alpha",
        usual="alpha = rank, a scale of 1",
        source="Hu et al. 2021, arXiv:2106.09685, section 4.1",
        find=_scale,
    ),
    Rule(
        name="high-rank",
        field="train.adapter.lora.rank",
        usual="16; 64 for harder tasks",
        source="Kalajdzievski 2023, arXiv:2312.03732: gradients collapse as the rank grows",
        find=_high_rank,
    ),
    Rule(
        name="learning-rate",
        field="train.optim.learning_rate",
        usual="by method and by what is trained",
        source=f"{_QLORA} (adapters); {_LLAMA2} (full); {_DPO} (preference)",
        find=_rate,
    ),
    Rule(
        name="epochs",
        field="train.optim.epochs",
        usual="1 to 3",
        source="Ouyang et al. 2022, arXiv:2203.02155; Muennighoff et al. 2023, arXiv:2305.16264",
        find=_passes,
    ),
    Rule(
        name="half-precision",
        field="train.dtype",
        usual="bfloat16",
        source="Kalamkar et al. 2019, arXiv:1905.12322",
        find=_half_precision,
    ),
    Rule(
        name="clipping",
        field="train.optim.max_grad_norm",
        usual="1; 0.3 for QLoRA",
        source="Pascanu et al. 2013, arXiv:1211.5063; Dettmers et al. 2023, arXiv:2305.14314",
        find=_clipping,
    ),
    Rule(
        name="long-rows",
        field="train.max_length",
        usual="the 95th percentile of the rows, rounded up to 64",
        source="Korthikanti et al. 2022, arXiv:2205.05198: activations grow with the length",
        find=_long,
    ),
    Rule(
        name="bare-base",
        field="train.base.model",
        usual="an instruct model for chats",
        source="the base's own files: no chat template",
        find=_bare_base,
    ),
    Rule(
        name="auxiliary-loss",
        field="train.base.model",
        usual="0.001 to 0.01",
        source="Fedus et al. 2021, arXiv:2101.03961, section 2.2",
        find=_auxiliary_loss,
    ),
    *RANGES,
)
"""The table. A rule is changed with a source, or with a measurement."""
