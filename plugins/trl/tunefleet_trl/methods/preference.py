"""DPO and IPO (arXiv:2305.18290, arXiv:2310.12036) and KTO (arXiv:2402.01306), by TRL's trainers.

All three ask the base what it thinks of the same answers: with an adapter that is the model with
the adapter switched off, else the base is loaded a second time. They get token ids and masks of
the platform's renderer, so that the library renders nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import AnsweredRow, Renderer
from tunefleet_trl.adaptation import adapter_config, is_full
from tunefleet_trl.arguments import common_arguments
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.methods.collating import LabelledCollator, PairCollator
from tunefleet_trl.methods.rows import AnsweredRows
from tunefleet_trl.trainer import RunTraining

__all__ = ["longest_of", "pair_columns", "preference_trainer"]

_BETA = 0.1


class _OwnRows:
    """Keeps the library from rendering: the rows are token ids already."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **further: Any) -> Any:
        return dataset


class PairTrainer(RunTraining, _OwnRows, DPOTrainer):
    """DPO and IPO, tied to a run."""

    def row_lengths(self) -> list[int]:
        return longest_of(self.train_dataset, "chosen_ids", "rejected_ids")


class LabelledTrainer(RunTraining, _OwnRows, KTOTrainer):
    """KTO, tied to a run."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # It insists on the order of the file, for mismatched answers that were paired batch by batch;
        # ours belong to their rows, and a file may hold all good answers first.
        self.args.train_sampling_strategy = "random"

    def row_lengths(self) -> list[int]:
        prompts, answers = self.train_dataset["prompt_ids"], self.train_dataset["answer_ids"]
        return [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]


def preference_trainer(
    context: RunContext, renderer: Renderer, rows: AnsweredRows, hardware: Hardware, **arguments: Any
) -> Any:
    """Return the trainer of a run of `dpo`, `ipo` or `kto`.

    Args:
        context: The run.
        renderer: Tokenizer and template of the run.
        rows: Its rows.
        hardware: What it computes on.
        arguments: `model` and `before_first_step` of RunTraining.
    """
    spec = context.order.resolved_spec
    method = spec.spec.train.method.WhichOneof("method")
    is_labelled = method == "kto"
    dataset = _labelled if is_labelled else _pairs
    collator = LabelledCollator if is_labelled else PairCollator
    trainer = LabelledTrainer if is_labelled else PairTrainer
    return trainer(
        context=context,
        # Loaded and not copied: weights that are trained are kept in float32, those of the base are not.
        ref_model=load_base(spec.base, hardware) if is_full(spec) else None,
        args=_arguments(context, rows, hardware),
        train_dataset=dataset(rows.train),
        eval_dataset=dataset(rows.validation) if rows.validation else None,
        data_collator=collator(pad_token_id=renderer.tokenizer.pad_token_id),
        processing_class=renderer.tokenizer,
        peft_config=adapter_config(spec),
        **arguments,
    )


def _arguments(context: RunContext, rows: AnsweredRows, hardware: Hardware) -> Any:
    train = context.order.resolved_spec.spec.train
    common = common_arguments(
        context.order, hardware, rows=len(rows.train), validates=bool(rows.validation)
    ) | {
        "max_length": None,  # rows were cut to size by policy, none is ever truncated
        "remove_unused_columns": False,
        "disable_dropout": not train.adapter.lora.dropout,
    }
    method = train.method.WhichOneof("method")
    if method == "kto":
        good, bad = label_weights(train.method.kto, rows.train)
        return KTOConfig(
            beta=train.method.kto.beta or _BETA,
            desirable_weight=good,
            undesirable_weight=bad,
            train_sampling_strategy="sequential",  # see LabelledTrainer
            **common,
        )
    if method == "ipo":
        return DPOConfig(loss_type=["ipo"], beta=train.method.ipo.beta or _BETA, **common)
    return DPOConfig(loss_type=["sigmoid"], beta=train.method.dpo.beta or _BETA, **common)


def label_weights(asked: Any, rows: Sequence[AnsweredRow]) -> tuple[float, float]:
    """Return the weights of good and bad answers, such that both kinds count the same in all.

    The paper asks for a ratio of the two sums from 1 to 4/3 (equation 8 of arXiv:2402.01306).
    """
    good = sum(row.answers[0].part == "good" for row in rows)
    bad = len(rows) - good
    fewer = min(good, bad) or 1
    return (
        asked.desirable_weight or fewer / max(good, 1),
        asked.undesirable_weight or fewer / max(bad, 1),
    )


def pair_columns(rows: Sequence[AnsweredRow]) -> dict[str, list[list[int]]]:
    """Return ids and masks of both answers of every row, as PairCollator takes them."""
    columns: dict[str, list[list[int]]] = {}
    for at, part in enumerate(("chosen", "rejected")):
        columns[f"{part}_ids"] = [row.answers[at].rendered.input_ids for row in rows]
        columns[f"{part}_mask"] = [row.answers[at].rendered.mask for row in rows]
    return columns


def _pairs(rows: Sequence[AnsweredRow]) -> Dataset:
    return Dataset.from_dict(pair_columns(rows))


def _labelled(rows: Sequence[AnsweredRow]) -> Dataset:
    answers = [row.answers[0] for row in rows]
    columns: dict[str, list[Any]] = {
        "prompt_ids": [item.rendered.input_ids[: item.prompt_tokens] for item in answers],
        "answer_ids": [item.rendered.input_ids[item.prompt_tokens :] for item in answers],
        "answer_mask": [item.rendered.mask[item.prompt_tokens :] for item in answers],
        "label": [item.part == "good" for item in answers],
    }
    others = _others(len(rows))
    for name in ("ids", "mask"):
        columns[f"other_{name}"] = [columns[f"answer_{name}"][other] for other in others]
    return Dataset.from_dict(columns)


def _others(count: int) -> list[int]:
    """Return for each row another one, whose answer its prompt is paired with.

    Drawn once for all rows, not in each batch: so devices that share a step see the pairs of one.
    """
    order = list(range(count))
    random.Random(count).shuffle(order)
    others = [0] * count
    for at, row in enumerate(order):
        others[row] = order[at - 1]
    return others


def longest_of(dataset: Any, *columns: str) -> list[int]:
    """Return the tokens of the longest of some columns, row by row."""
    rows = zip(*(dataset[name] for name in columns), strict=True)
    return [max(len(ids) for ids in row) for row in rows]
