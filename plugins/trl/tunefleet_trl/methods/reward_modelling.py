"""Reward modelling by TRL's trainer: a head on the base learns to score chosen answers above rejected ones.

A conversation is scored at the token that ends its answer, where a model that is trained on the
scores will have stopped: what the template writes after it is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Answer, Renderer, is_preflight_wanted
from tunefleet_trl.adaptation import adapter_config, is_full
from tunefleet_trl.arguments import common_arguments
from tunefleet_trl.life import attach_life, restore_best, with_rollbacks
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.methods.collating import padded
from tunefleet_trl.methods.preference import longest_of
from tunefleet_trl.methods.reward_files import write_reward_model
from tunefleet_trl.methods.rows import AnsweredRows, answered_training_rows
from tunefleet_trl.preflight import preflight
from tunefleet_trl.processes import is_first, leave_processes
from tunefleet_trl.trainer import RunTraining

__all__ = ["scored_ids", "train_reward_model"]

_DEFAULT_SEED = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class _ScoreCollator:
    """Pairs to a batch: the chosen conversations first, then the rejected ones, filled up on the right."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
        batch = padded(ids, ids, pad=self.pad_token_id)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}


class ScoreTrainer(RunTraining, RewardTrainer):
    """Reward modelling, tied to a run."""

    writes_answers = False

    def row_lengths(self) -> list[int]:
        return longest_of(self.train_dataset, "chosen_ids", "rejected_ids")

    def trained_in(self, batch: Any) -> Any:
        return None


def train_reward_model(context: RunContext, renderer: Renderer, hardware: Hardware) -> RunOutput:
    """Train a model that scores answers, and write it.

    Raises:
        RunStopped: the run was asked to stop; with a checkpoint if it was asked to save.
        TunefleetError: DATA_INVALID, BASE_INVALID, NO_TRAINED_TOKEN, TRAINING_DIVERGED.
    """
    rows = answered_training_rows(context, renderer, "reward")
    return with_rollbacks(context, lambda now: _train_once(now, renderer, rows, hardware))


def _train_once(context: RunContext, renderer: Renderer, rows: AnsweredRows, hardware: Hardware) -> RunOutput:
    """Train from the start, or from the checkpoint of the order, to the output."""
    spec = context.order.resolved_spec
    train = spec.spec.train
    seed = train.seed if train.HasField("seed") else _DEFAULT_SEED
    trainer = ScoreTrainer(
        context=context,
        before_first_step=partial(_try_first, context, renderer, rows),
        model=load_base(spec.base, hardware, quantization=train.quantization, head_seed=seed),
        args=_arguments(context, rows, hardware),
        train_dataset=_dataset(rows.train),
        eval_dataset=_dataset(rows.validation) if rows.validation else None,
        data_collator=_ScoreCollator(pad_token_id=renderer.tokenizer.pad_token_id),
        processing_class=renderer.tokenizer,
        peft_config=adapter_config(spec, scores=True),
    )
    attach_life(context, trainer, renderer, hardware)
    trainer.row_places = rows.places(scored_ids)
    trainer.train(resume_from_checkpoint=context.order.resume_from or None)
    leave_processes(context.order)
    if not is_first(context.order):
        return RunOutput(step=trainer.state.global_step)
    restore_best(context, trainer)
    with context.writing_output() as folder:
        judged = [scored_ids(answer) for row in rows.validation or rows.train for answer in row.answers]
        write_reward_model(trainer, folder, spec, judged, full=is_full(spec), dtype=hardware.dtype)
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_REWARD_MODEL, step=trainer.state.global_step)


def scored_ids(answer: Answer) -> list[int]:
    """Return the tokens of a conversation up to the one that ends its answer."""
    mask = answer.rendered.mask
    return answer.rendered.input_ids[: len(mask) - mask[::-1].index(1)]


def _dataset(rows: Sequence[Any]) -> Dataset:
    return Dataset.from_dict(
        {
            f"{part}_ids": [scored_ids(row.answers[at]) for row in rows]
            for at, part in enumerate(("chosen", "rejected"))
        }
    )


def _arguments(context: RunContext, rows: AnsweredRows, hardware: Hardware) -> RewardConfig:
    train = context.order.resolved_spec.spec.train
    return RewardConfig(
        max_length=None,  # rows were cut to size by policy
        remove_unused_columns=False,
        disable_dropout=not train.adapter.lora.dropout,
        center_rewards_coefficient=train.method.reward.center_rewards_coefficient or None,
        **common_arguments(context.order, hardware, rows=len(rows.train), validates=bool(rows.validation)),
    )


def _try_first(context: RunContext, renderer: Renderer, rows: AnsweredRows, trainer: Any) -> None:
    if is_preflight_wanted(context):
        preflight(context, trainer, renderer, rows.references().train)
