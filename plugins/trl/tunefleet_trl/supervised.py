"""The library's trainer on answers that rows hold: its datasets, its arguments, itself.

For runs of one process, of several, and split ones, and for backends that build on this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trl import SFTConfig

from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_core.rendering import Renderer, TrainingRows
from tunefleet_trl.adaptation import adapter_config
from tunefleet_trl.arguments import common_arguments
from tunefleet_trl.loading import Hardware
from tunefleet_trl.packing import PackingCollator, packed_dataset, require_isolation
from tunefleet_trl.token_columns import supervised_dataset
from tunefleet_trl.trainer import RunTrainer

__all__ = ["supervised_arguments", "supervised_datasets", "supervised_trainer"]


def supervised_datasets(spec: ResolvedSpec, rows: TrainingRows, hardware: Hardware) -> dict[str, Any]:
    """Return the library's arguments `train_dataset` and `eval_dataset`; None without validation rows."""
    if _is_packed(spec, hardware):
        return _packed(rows, spec.spec.train.max_length if spec.spec.train.method.sft.packing else 0)
    return {
        "train_dataset": supervised_dataset(rows.train),
        "eval_dataset": supervised_dataset(rows.validation) if rows.validation else None,
    }


def supervised_arguments(
    order: RunOrder, hardware: Hardware, datasets: Mapping[str, Any], **further: Any
) -> SFTConfig:
    """Return what the library's trainer is told; `further` goes beside, or before, what the spec says."""
    common = common_arguments(
        order,
        hardware,
        rows=len(datasets["train_dataset"]),
        validates=datasets["eval_dataset"] is not None,
    )
    return SFTConfig(
        max_length=None,  # rows were cut to size by policy, none is ever truncated
        dataset_kwargs={"skip_prepare_dataset": True},
        **{**common, **further},
    )


def supervised_trainer(
    context: RunContext,
    renderer: Renderer,
    datasets: Mapping[str, Any],
    hardware: Hardware,
    *,
    arguments: SFTConfig,
    model: Any,
    before_first_step: Callable[[Any], None],
    kind: type[RunTrainer] = RunTrainer,
) -> RunTrainer:
    """Return a trainer on answers that rows hold.

    Args:
        context: The run.
        renderer: Tokenizer and template of the run.
        datasets: What `supervised_datasets` made of its rows.
        hardware: What it computes on.
        arguments: What `supervised_arguments` says.
        model: The base, without adapter.
        before_first_step: Called with the trainer when everything is prepared.
        kind: The trainer; one of a backend that builds on this one.
    """
    spec = context.order.resolved_spec
    packs = _is_packed(spec, hardware)
    trainer = kind(
        context=context,
        before_first_step=before_first_step,
        model=model,
        args=arguments,
        processing_class=renderer.tokenizer,
        peft_config=adapter_config(spec),
        data_collator=PackingCollator.of(renderer.tokenizer, model) if packs else None,
        **datasets,
    )
    if packs:
        require_isolation(trainer.model, datasets["train_dataset"])
    return trainer


def _is_packed(spec: ResolvedSpec, hardware: Hardware) -> bool:
    return spec.spec.train.method.sft.packing or hardware.is_padding_free


def _packed(rows: TrainingRows, capacity: int) -> dict[str, Any]:
    """Return sequences of at most so many tokens; a capacity of 0 gives every row its own."""
    return {
        "train_dataset": packed_dataset(rows.train, capacity),
        "eval_dataset": packed_dataset(rows.validation, capacity) if rows.validation else None,
    }
