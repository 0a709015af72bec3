"""What a training run leaves: an adapter in PEFT's form, or whole weights, with the record of its numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_core.parity import NumbersRecord, TopLogprobs, write_contract
from tunefleet_core.rendering import RenderedRow, Renderer, contract_record, reference_prefixes
from tunefleet_core.spec import effective_scale
from tunefleet_mlx.adaptation import is_full
from tunefleet_mlx.adapter_files import save_peft
from tunefleet_mlx.adapter_form import AdapterShape
from tunefleet_mlx.devices import Hardware
from tunefleet_mlx.loading import parameters_of
from tunefleet_mlx.merging import merge_adapter
from tunefleet_mlx.model_files import write_model_folder
from tunefleet_mlx.reference_numbers import top_logprobs
from tunefleet_mlx.trainer import Trainer
from tunefleet_mlx.unquantized import add_unquantized

__all__ = ["save_trained_adapter", "write_output"]


def write_output(
    context: RunContext,
    trainer: Trainer,
    renderer: Renderer,
    rows: Sequence[RenderedRow],
    *,
    hardware: Hardware,
    base_numbers: Sequence[TopLogprobs],
) -> RunOutput:
    """Measure what was trained and write it.

    Args:
        context: The run.
        trainer: A trainer that has finished.
        renderer: Tokenizer and template of the run.
        rows: The rows that the reference prompts are taken from.
        hardware: What it computed on.
        base_numbers: What the base answered to those prompts before training.
    """
    spec = context.order.resolved_spec
    numbers = _numbers(rows, base_numbers, top_logprobs(trainer.model, reference_prefixes(rows)))
    contract = contract_record(spec, renderer, rows, dtype=hardware.dtype, numbers=numbers)
    chat, step = spec.chat_template, trainer.step
    if spec.spec.train.merge and not is_full(spec):
        with tempfile.TemporaryDirectory(dir=context.order.work_dir, prefix="to-merge-") as name:
            adapter = Path(name)
            _write_adapter(trainer, adapter, spec)
            write_contract(contract, adapter)
            trainer.let_go()
            with context.writing_output() as folder:
                for remark in merge_adapter(spec.base, adapter, folder, hardware):
                    context.notice(remark, severity="info")
        return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL, step=step)
    with context.writing_output() as folder:
        if is_full(spec):
            weights = parameters_of(trainer.model)
            write_model_folder(
                folder, spec.base, weights, template=chat.text, stops=list(chat.stop_token_ids)
            )
        else:
            _write_adapter(trainer, folder, spec)
        if spec.spec.train.quantization:
            trainer.let_go()
            contract = add_unquantized(context, contract, folder, hardware)
        write_contract(contract, folder)
    kind = ArtifactKind.ARTIFACT_KIND_MODEL if is_full(spec) else ArtifactKind.ARTIFACT_KIND_ADAPTER
    return RunOutput(kind=kind, step=step)


def _write_adapter(trainer: Trainer, folder: Path, spec: ResolvedSpec) -> None:
    save_trained_adapter(trainer, folder, spec)
    (folder / "chat_template.jinja").write_bytes(spec.chat_template.text.encode())


def save_trained_adapter(trainer: Trainer, folder: Path, spec: ResolvedSpec) -> None:
    """Write the adapter of a trainer as PEFT reads it."""
    from mlx.utils import tree_flatten

    lora = spec.spec.train.adapter.lora
    shape = AdapterShape(
        rank=lora.rank,
        scale=effective_scale(lora),
        modules=tuple(sorted(spec.target_modules)),
        dora=lora.dora,
        dropout=lora.dropout,
    )
    save_peft(dict(tree_flatten(trainer.weights)), shape, folder, spec.base, rslora=lora.rslora)


def _numbers(
    rows: Sequence[RenderedRow], base: Sequence[TopLogprobs], tuned: Sequence[TopLogprobs]
) -> list[NumbersRecord]:
    return [
        NumbersRecord(prompt_token_ids=tuple(prompt), base=before, tuned=after)
        for prompt, before, after in zip(reference_prefixes(rows), base, tuned, strict=True)
    ]
