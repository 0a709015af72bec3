"""Numbers of a recipe that usually lie within a range, each range with its source."""

from __future__ import annotations

from typing import cast

from google.protobuf.message import Message

from tunefleet_core.resolve.recipe import Finding, Recipe, Rule

__all__ = ["RANGES"]


def _range(name: str, low: float, high: float, *, usual: str, why: str, source: str) -> Rule:
    """Return a rule that a number lies within a range, where the job has it."""
    field = f"train.{name}"
    *parents, last = name.split(".")

    def find(recipe: Recipe) -> Finding | None:
        parent = cast("Message", recipe.train)
        for part in parents:
            if not parent.HasField(part):
                return None
            parent = getattr(parent, part)
        if not parent.HasField(last):
            return None  # what was left out and has no default is the backend's to decide
        number: float = getattr(parent, last)
        if low <= number <= high or (name.startswith("adapter") and not recipe.is_adapter):
            return None
        word = "high" if number > high else "low"
        return Finding(
            text=f"{field} {number:g} is {word}: {why}.",
            hint=f"Leave {field} out for the default.",
            value=number,
        )

    words = name.split(".")
    told = words[1:] if words[0] == "method" else words[-1:]
    return Rule(name="-".join(told).replace("_", "-"), field=field, usual=usual, source=source, find=find)


RANGES: tuple[Rule, ...] = (
    _range(
        "optim.batch_size",
        4,
        256,
        usual="16",
        why="few rows a step are noisy, many waste what one row teaches",
        source="McCandlish et al. 2018, arXiv:1812.06162",
    ),
    _range(
        "optim.warmup_ratio",
        0,
        0.2,
        usual="0.03, at most 0.1",
        why="the rate is at its peak only after that share of the steps",
        source="Dettmers et al. 2023, arXiv:2305.14314",
    ),
    _range(
        "optim.weight_decay",
        0,
        0.1,
        usual="0",
        why="it pulls the trained weights to zero",
        source="Loshchilov and Hutter 2017, arXiv:1711.05101",
    ),
    _range(
        "neftune_alpha",
        0,
        15,
        usual="5",
        why="that much noise on the embeddings hides the words",
        source="Jain et al. 2023, arXiv:2310.05914: 5, 10 and 15 were tried",
    ),
    _range(
        "optim.min_lr_ratio",
        0,
        0.5,
        usual="0, at most 0.1",
        why="the rate hardly falls, and the last steps move as far as the first",
        source="Hoffmann et al. 2022, arXiv:2203.15556: a tenth of the peak",
    ),
    _range(
        "optim.decay_ratio",
        0.05,
        0.5,
        usual="0.2",
        why="the schedule wsd gains most of what it gains while the rate falls",
        source="Haegele et al. 2024, arXiv:2405.18392",
    ),
    _range(
        "optim.beta1",
        0.8,
        0.95,
        usual="0.9",
        why="it is how long a gradient is remembered",
        source="Kingma and Ba 2014, arXiv:1412.6980",
    ),
    _range(
        "optim.beta2",
        0.9,
        0.9999,
        usual="0.999; 0.95 for large models, 0.99 for lion",
        why="it is how long the size of a gradient is remembered",
        source="Touvron et al. 2023, arXiv:2302.13971: 0.95",
    ),
    _range(
        "optim.epsilon",
        1e-12,
        1e-5,
        usual="1e-8",
        why="above it small gradients move nothing, below it tiny ones move far",
        source="Kingma and Ba 2014, arXiv:1412.6980",
    ),
    _range(
        "adapter.lora.lora_plus_ratio",
        1,
        32,
        usual="1; 16 where the task is far from what the base knows",
        why="B learns that many times as fast as A, and diverges first",
        source="Hayou et al. 2024, arXiv:2402.12354",
    ),
    _range(
        "method.grpo.num_generations",
        4,
        64,
        usual="8",
        why="few answers say little of what is better than usual, many cost as much each",
        source="Shao et al. 2024, arXiv:2402.03300, section 4.2: 64",
    ),
    _range(
        "method.grpo.temperature",
        0.5,
        1.5,
        usual="1",
        why="answers of one group are then all alike, or noise",
        source="TRL 1.16, GRPOConfig.temperature",
    ),
    _range(
        "method.rloo.num_generations",
        2,
        64,
        usual="4",
        why="each answer is held against the others, and each costs as much",
        source="Ahmadian et al. 2024, arXiv:2402.14740: 2 and 4",
    ),
    _range(
        "method.rloo.temperature",
        0.5,
        1.5,
        usual="1",
        why="answers to one prompt are then all alike, or noise",
        source="TRL 1.16, RLOOConfig.temperature",
    ),
    _range(
        "method.reward.center_rewards_coefficient",
        0,
        0.1,
        usual="0.01",
        why="it holds the scores near 0 and apart from each other less",
        source="Eisenstein et al. 2023, arXiv:2312.09244, section 4",
    ),
    _range(
        "adapter.lora.dropout",
        0,
        0.2,
        usual="0.05; 0.1 against over-fitting",
        why="the adapter sees that share of its input less",
        source="Dettmers et al. 2023, arXiv:2305.14314",
    ),
)
"""The table. A range is changed with a source, or with a measurement."""
