"""GRPO (arXiv:2402.03300) and RLOO (arXiv:2402.14740), by TRL's trainers: the model answers and is scored.

A row of a job is a prompt with all of its answers, so that `batch_size` means prompts here too. The
prompts are token ids of the platform's renderer; the library gets their text as a name for them.
Answers end at the stop tokens of the resolved template, as they will when the model is served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import RepeatSampler

from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import AnsweredRow, Renderer, data_of_role, scorers_of
from tunefleet_core.rewards import NamedScorer
from tunefleet_trl.adaptation import adapter_config
from tunefleet_trl.arguments import common_arguments
from tunefleet_trl.library_gaps import close_library_gaps
from tunefleet_trl.loading import Hardware
from tunefleet_trl.methods.reward_files import load_reward_model, score_ids
from tunefleet_trl.methods.rows import AnsweredRows
from tunefleet_trl.processes import count_of
from tunefleet_trl.trainer import RunTraining

__all__ = ["SCORED", "scored_trainer"]

SCORED = ("grpo", "rloo")
"""The methods of this module."""

_GENERATIONS = {"grpo": 8, "rloo": 4}
_BETAS = {"grpo": 0.04, "rloo": 0.05}
_LONGEST = 256


class _EpochOrder(RepeatSampler):
    """The library's order of prompts, known from the epoch alone: it draws each epoch's from the one before,
    so a run that resumes in the second epoch would go through the first one's again."""

    def __init__(self, sampler: RepeatSampler) -> None:
        self.__dict__.update(sampler.__dict__)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.generator.manual_seed(self.seed + epoch)


class _Answering(RunTraining):
    """What both trainers need: prompts that are ids already, and counters of their own."""

    fills_up_epochs = False  # the library leaves out the prompts of an epoch that make no whole step
    num_generations: int
    ref_model: Any
    _step: int
    _buffered_inputs: Any

    def __init__(self, *, prompt_ids: dict[str, list[int]], **arguments: Any) -> None:
        self._prompt_ids = prompt_ids
        super().__init__(**arguments)
        if self.ref_model is not None:  # the base beside it, which the library has loaded by itself
            close_library_gaps(self.ref_model)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self._prompt_ids[prompt] for prompt in prompts], None, {}

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return _EpochOrder(super()._get_train_sampler(dataset))  # pyright: ignore

    def row_lengths(self) -> list[int]:
        return [len(self._prompt_ids[prompt]) for prompt in self.train_dataset["prompt"]]

    def trial_batch(self, longest: list[int]) -> Any:
        """Return as many prompts as a process answers at once, the longest over and over."""
        count = self.args.generation_batch_size // self.args.world_size // self.num_generations
        rows = [self.train_dataset[longest[at % len(longest)]] for at in range(count)]
        return [row for row in rows for _ in range(self.num_generations)]

    def trained_in(self, batch: Any) -> Any:
        return None

    def count_tokens(self) -> int:
        return int(self.state.num_input_tokens_seen)

    def resume_tokens(self) -> None:
        """Nothing: the library keeps the number in its state."""

    def forget_metrics(self, tokens: int) -> None:
        self._metrics["train"].clear()
        self.expert_load.forget()
        self.state.num_input_tokens_seen = tokens
        self._step, self._buffered_inputs = 0, None


class GroupTrainer(_Answering, GRPOTrainer):
    """GRPO, tied to a run."""


class LeaveOneOutTrainer(_Answering, RLOOTrainer):
    """RLOO, tied to a run."""


def scored_trainer(
    context: RunContext, renderer: Renderer, rows: AnsweredRows, hardware: Hardware, **arguments: Any
) -> Any:
    """Return the trainer of a run of `grpo` or `rloo`.

    Args:
        context: The run.
        renderer: Tokenizer and template of the run.
        rows: Its prompts.
        hardware: What it computes on.
        arguments: `model` and `before_first_step` of RunTraining.
    """
    spec = context.order.resolved_spec
    method = str(spec.spec.train.method.WhichOneof("method"))
    options = getattr(spec.spec.train.method, method)
    data_of_role(spec, "reward")  # proves that code is what was submitted, before any of it runs
    scorers = scorers_of(method, options.rewards)
    everything = [*rows.train, *rows.validation]
    prompt_ids = {_name(renderer, row): row.answers[0].rendered.input_ids for row in everything}
    models = _reward_models(context, hardware)
    stops = list(spec.chat_template.stop_token_ids)
    if stops:
        arguments["model"].generation_config.eos_token_id = stops
    trainer = GroupTrainer if method == "grpo" else LeaveOneOutTrainer
    return trainer(
        context=context,
        prompt_ids=prompt_ids,
        reward_funcs=[
            _reward_by_model(item, models.pop(0), prompt_ids) if item.scorer.model else _reward(item)
            for item in scorers
        ],
        args=_arguments(context, rows, hardware, [item.weight for item in scorers]),
        train_dataset=_dataset(renderer, rows.train),
        eval_dataset=_dataset(renderer, rows.validation) if rows.validation else None,
        processing_class=renderer.tokenizer,
        peft_config=adapter_config(spec),
        **arguments,
    )


def _arguments(context: RunContext, rows: AnsweredRows, hardware: Hardware, weights: Sequence[float]) -> Any:
    train = context.order.resolved_spec.spec.train
    method = str(train.method.WhichOneof("method"))
    options = getattr(train.method, method)
    count = options.num_generations or _GENERATIONS[method]
    common = common_arguments(context.order, hardware, rows=len(rows.train), validates=bool(rows.validation))
    prompts = common["per_device_train_batch_size"] * common["gradient_accumulation_steps"]
    prompts *= count_of(context.order)
    if len(rows.train) < prompts:
        raise TunefleetError.field(
            "train.optim.batch_size", f"is {prompts}, more than the {len(rows.train)} prompts there are"
        )
    answers = common["per_device_train_batch_size"] * count
    shared = common | {
        "per_device_train_batch_size": answers,
        "per_device_eval_batch_size": answers,
        "num_generations": count,
        "max_completion_length": options.max_completion_length or _LONGEST,
        "temperature": options.temperature or 1.0,
        "beta": options.beta if options.HasField("beta") else _BETAS[method],
        "reward_weights": list(weights),
        "remove_unused_columns": False,
        "disable_dropout": not train.adapter.lora.dropout,
    }
    if method == "grpo":
        # Every token counts the same, not every answer (Yu et al. 2025, arXiv:2503.14476, section 3.3).
        return GRPOConfig(loss_type="dapo", **shared)
    return RLOOConfig(**shared)


def _dataset(renderer: Renderer, rows: Sequence[AnsweredRow]) -> Dataset:
    """Return prompts by name, with their further fields as JSON: a column of a table has one type only."""
    return Dataset.from_dict(
        {
            "prompt": [_name(renderer, row) for row in rows],
            "fields": [json.dumps(_fields(row)) for row in rows],
        }
    )


def _fields(row: AnsweredRow) -> dict[str, Any]:
    """Return what rewards may look at: the further fields of a row, and its prompt."""
    answer = row.answers[0]
    return {**(answer.fields or {}), "prompt": answer.row.as_chat()}


def _name(renderer: Renderer, row: AnsweredRow) -> str:
    return renderer.text(row.answers[0].rendered.input_ids)


def _reward_models(context: RunContext, hardware: Hardware) -> list[Any]:
    """Return the reward models that a job names, in its order."""
    order = context.order
    return [
        load_reward_model(companion, folder, hardware)
        for companion, folder in zip(
            order.resolved_spec.companions, order.companion_adapter_dirs, strict=True
        )
    ]


def _reward_by_model(item: NamedScorer, model: Any, prompt_ids: Mapping[str, list[int]]) -> Any:
    def score(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **further: Any
    ) -> list[float]:
        pairs = zip(prompts, completion_ids, strict=True)
        return score_ids(model, [[*prompt_ids[prompt], *answer] for prompt, answer in pairs])

    score.__name__ = item.name  # what the library calls its figures
    return score


def _reward(item: NamedScorer) -> Any:
    def score(completions: list[str], fields: list[str], **further: Any) -> list[float]:
        scores = [
            float(value) for value in item.scorer.score([json.loads(row) for row in fields], completions)
        ]
        if len(scores) != len(completions):
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                f"The reward '{item.name}' gave {len(scores)} scores for {len(completions)} answers.",
                hint="Report it to the makers of the reward.",
                metadata={"reward": item.name},
            )
        return scores

    score.__name__ = item.name  # what the library calls its figures
    return score
