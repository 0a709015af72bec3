"""What a training run leaves: an adapter, or whole weights, with the record of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_core.parity import TopLogprobs, TrainServeContract, write_contract
from tunefleet_core.rendering import Renderer, TrainingRows
from tunefleet_core.spec import is_only_for_quantised, takes_from_base
from tunefleet_trl.adaptation import is_full
from tunefleet_trl.adapter_files import save_adapter
from tunefleet_trl.export import adapter_to_merge, merge_after_training
from tunefleet_trl.loading import Hardware
from tunefleet_trl.model_files import save_model_folder
from tunefleet_trl.processes import is_first
from tunefleet_trl.reference_numbers import build_contract, measure, reference_prefixes
from tunefleet_trl.unquantized import add_unquantized

__all__ = ["base_numbers_of", "write_output"]


def base_numbers_of(context: RunContext, model: Any, rows: TrainingRows) -> list[TopLogprobs] | None:
    """Measure the base while it is there; None if it stays whole, or another process does."""
    spec = context.order.resolved_spec
    is_changed = is_full(spec) or takes_from_base(spec.spec.train.adapter.lora)
    if not (is_changed and is_first(context.order)):
        return None
    return measure(model, reference_prefixes(_reference_rows(rows)))


def write_output(
    context: RunContext,
    trainer: Any,
    renderer: Renderer,
    rows: TrainingRows,
    *,
    hardware: Hardware,
    base_numbers: Sequence[TopLogprobs] | None,
) -> RunOutput:
    """Measure what was trained and write it.

    Args:
        context: The run.
        trainer: A RunTrainer that has finished.
        renderer: Tokenizer and template of the run.
        rows: Its rows; the reference prompts are taken from them.
        hardware: What it computed on.
        base_numbers: What `base_numbers_of` said before training.
    """
    spec = context.order.resolved_spec
    full = is_full(spec)
    model = _as_served(trainer, hardware) if full else trainer.model
    contract = build_contract(
        model, renderer, _reference_rows(rows), spec=spec, dtype=hardware.dtype, base_numbers=base_numbers
    )
    step = trainer.state.global_step
    if spec.spec.train.merge and not full:
        with adapter_to_merge(context) as folder:
            _write_adapter(trainer, folder, spec, contract)
            trainer.let_go()
            del model
            merge_after_training(context, folder)
        return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL, step=step)
    with context.writing_output() as folder:
        if full:
            chat = spec.chat_template
            save_model_folder(model, folder, spec.base, template=chat.text, stops=list(chat.stop_token_ids))
            write_contract(contract, folder)
        elif spec.spec.train.quantization and not is_only_for_quantised(spec.spec.train):
            _write_adapter(trainer, folder, spec, contract)
            del model
            trainer.let_go()
            write_contract(add_unquantized(context, contract, folder, hardware), folder)
        else:
            _write_adapter(trainer, folder, spec, contract)
    kind = ArtifactKind.ARTIFACT_KIND_MODEL if full else ArtifactKind.ARTIFACT_KIND_ADAPTER
    return RunOutput(kind=kind, step=step)


def _write_adapter(trainer: Any, folder: Path, spec: ResolvedSpec, contract: TrainServeContract) -> None:
    save_adapter(trainer.model, folder, spec.base)
    if trainer.initial_factors is not None:
        trainer.initial_factors.give_back(folder)
    (folder / "chat_template.jinja").write_bytes(spec.chat_template.text.encode())
    write_contract(contract, folder)


def _as_served(trainer: Any, hardware: Hardware) -> Any:
    """Return the trained model without what the trainer put around it, in the type it is written in.

    Weights are trained in float32; the numbers kept must be those of the rounded ones.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    for parameter in model.parameters():  # not the buffers: a loaded model keeps its frequencies in float32
        parameter.data = parameter.data.to(getattr(torch, hardware.dtype))
    return model


def _reference_rows(rows: TrainingRows) -> Sequence[Any]:
    return rows.validation or rows.train
