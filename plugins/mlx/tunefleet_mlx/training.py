"""A training run from order to output: load, train, measure, write."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mlx_lm.tuner.trainer import grad_checkpoint

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import (
    Renderer,
    TrainingRows,
    is_preflight_wanted,
    reference_prefixes,
    renderer_of,
    training_rows,
)
from tunefleet_core.run_life import RunLife, Samples, with_rollbacks
from tunefleet_mlx.adaptation import adapt, is_full
from tunefleet_mlx.devices import Hardware, prepare_hardware
from tunefleet_mlx.following import Follower
from tunefleet_mlx.loading import block_class, load_base, parameters_of
from tunefleet_mlx.model_files import require_same_names
from tunefleet_mlx.outcome import save_trained_adapter, write_output
from tunefleet_mlx.preflight import preflight
from tunefleet_mlx.reference_numbers import top_logprobs
from tunefleet_mlx.schedule import plan_of
from tunefleet_mlx.trainer import Trainer
from tunefleet_mlx.variants import QUANTIZED

__all__ = ["train"]


def train(context: RunContext) -> RunOutput:
    """Run a training order to its adapter, or to whole weights.

    Raises:
        RunStopped: the run was asked to stop; with a checkpoint if it was asked to save.
        TunefleetError: CAPABILITY_UNSUPPORTED, DATA_INVALID, BASE_INVALID, NO_TRAINED_TOKEN,
            TRAINING_DIVERGED.
    """
    spec = context.order.resolved_spec
    _refuse_unsupported(spec)
    context.enter(RunPhase.RUN_PHASE_LOADING)
    hardware = prepare_hardware(context.order)
    renderer = renderer_of(spec.base, spec.chat_template, loss_on=spec.spec.train.loss_on)
    rows = training_rows(context, renderer)
    return with_rollbacks(context, partial(_train_once, renderer=renderer, rows=rows, hardware=hardware))


def _train_once(
    context: RunContext, *, renderer: Renderer, rows: TrainingRows, hardware: Hardware
) -> RunOutput:
    """Train from the start, or from the checkpoint of the order, to the output."""
    spec = context.order.resolved_spec
    plan = plan_of(spec.spec.train, rows=len(rows.train))
    model = load_base(spec.base, hardware, quantization=spec.spec.train.quantization)
    references = rows.validation or rows.train
    base_numbers = top_logprobs(model, reference_prefixes(references))
    adapt(model, spec, seed=plan.seed)
    if is_full(spec):
        require_same_names(spec.base, parameters_of(model))
    if _is_checkpointed(spec, hardware):
        grad_checkpoint(block_class(model))
    trainer = Trainer(model, train=spec.spec.train, plan=plan, rows=rows.train, dtype=hardware.dtype)
    del model
    life = RunLife(context)
    trainer.rate_scale = life.recovery.rate_scale
    trainer.max_grad_norm = life.recovery.max_grad_norm(trainer.max_grad_norm)
    save = partial(_write_checkpoint, trainer, spec, life)
    if is_preflight_wanted(context):
        preflight(context, trainer, renderer, save)
    if context.order.resume_from:
        trainer.resume(Path(context.order.resume_from))
    Follower(
        context=context,
        trainer=trainer,
        life=life,
        validation=rows.validation,
        samples=Samples(context, renderer),
        write_checkpoint=save,
    ).follow()
    trainer.step = life.take_best(trainer.step, trainer.load_weights)
    return write_output(context, trainer, renderer, references, hardware=hardware, base_numbers=base_numbers)


def _write_checkpoint(trainer: Trainer, spec: ResolvedSpec, life: RunLife, folder: Path) -> None:
    trainer.write_state(folder)
    life.write(folder)
    if not is_full(spec):
        save_trained_adapter(trainer, folder, spec)


def _is_checkpointed(spec: ResolvedSpec, hardware: Hardware) -> bool:
    train = spec.spec.train
    if train.HasField("gradient_checkpointing"):
        return train.gradient_checkpointing
    return hardware.kind == "metal"


def _refuse_unsupported(spec: ResolvedSpec) -> None:
    """Refuse what a coordinator that knows less may have let pass."""
    train = spec.spec.train
    method = train.method.WhichOneof("method") or "sft"
    if method != "sft":
        raise _unsupported("METHODS", f"training by {method}", "Use the method sft.")
    if train.quantization and not (train.quantization in QUANTIZED and train.HasField("adapter")):
        what = f"this training on a base quantised to {train.quantization}"
        raise _unsupported("TRAINED_FORMATS", what, f"Quantise an adapter's base to {', '.join(QUANTIZED)}.")
    if train.adapter.HasField("prompt_tuning"):
        raise _unsupported("PROMPT_TUNING", "prompt tuning", "Use adapter: {lora: {}}.")
    if train.method.sft.packing:
        raise _unsupported("PACKING", "packing", "Remove train.method.sft.packing from the job file.")


def _unsupported(capability: str, what: str, hint: str) -> TunefleetError:
    return TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"Backend 'mlx' does not have the capability {capability}: it does not do {what}.",
        hint=hint,
        metadata={"backend": "mlx", "capability": capability},
    )
