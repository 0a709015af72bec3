"""A training run from order to output: meet, load in parts, train, put together, measure, write."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet.job.v1.event_pb2 import RunPhase
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import Renderer, TrainingRows, is_preflight_wanted, renderer_of, training_rows
from tunefleet_deepspeed.joining import USES_OUR_STATE, join, leave, tell_libraries
from tunefleet_deepspeed.options import engine_config, zero_options
from tunefleet_deepspeed.trainer import ZeroTrainer
from tunefleet_trl.life import with_rollbacks
from tunefleet_trl.loading import Hardware, load_base, prepare_hardware
from tunefleet_trl.split.preflight import preflight
from tunefleet_trl.split.to_output import train_to_output
from tunefleet_trl.supervised import supervised_arguments, supervised_datasets, supervised_trainer

__all__ = ["train"]


def train(context: RunContext) -> RunOutput:
    """Run a training order to its adapter, or to whole weights.

    Raises:
        RunStopped: the run was asked to stop; with a checkpoint if it was asked to save.
        TunefleetError: CAPABILITY_UNSUPPORTED, FIELD_INVALID, DATA_INVALID, BASE_INVALID,
            NO_TRAINED_TOKEN, TRAINING_DIVERGED.
    """
    spec = context.order.resolved_spec
    _refuse_unsupported(spec)
    context.enter(RunPhase.RUN_PHASE_LOADING)
    hardware = prepare_hardware(context.order, dtype=spec.spec.train.dtype)
    join(context.order, hardware.kind)
    renderer = renderer_of(spec.base, spec.chat_template, loss_on=spec.spec.train.loss_on)
    rows = training_rows(context, renderer)
    return with_rollbacks(context, partial(_train_once, renderer=renderer, rows=rows, hardware=hardware))


def _train_once(
    context: RunContext, *, renderer: Renderer, rows: TrainingRows, hardware: Hardware
) -> RunOutput:
    """Train from the start, or from the checkpoint of the order, to the output."""
    trainer = _trainer(context, renderer, rows, hardware)

    def part() -> None:
        leave(context.order)
        unset_hf_deepspeed_config()

    return train_to_output(context, trainer, renderer, rows=rows, hardware=hardware, part=part)


def _trainer(context: RunContext, renderer: Renderer, rows: TrainingRows, hardware: Hardware) -> Any:
    order = context.order
    spec = order.resolved_spec
    datasets = supervised_datasets(spec, rows, hardware)
    tell_libraries(hardware.kind)
    # Before the base: while such arguments live, the library splits what it loads.
    arguments = supervised_arguments(
        order,
        hardware,
        datasets,
        deepspeed=engine_config(
            zero_options(spec.spec), work_dir=order.work_dir, pins_memory=hardware.kind == "cuda"
        ),
        **USES_OUR_STATE,
    )
    return supervised_trainer(
        context,
        renderer,
        datasets,
        hardware,
        arguments=arguments,
        model=load_base(spec.base, hardware),
        before_first_step=partial(_try_first, context, renderer),
        kind=ZeroTrainer,
    )


def _try_first(context: RunContext, renderer: Renderer, trainer: Any) -> None:
    if is_preflight_wanted(context):
        preflight(context, trainer, renderer)


def _refuse_unsupported(spec: ResolvedSpec) -> None:
    """Refuse what a coordinator that knows less may have let pass."""
    train = spec.spec.train
    method = train.method.WhichOneof("method") or "sft"
    lora = train.adapter.lora
    for is_asked, capability, what, hint in (
        (method != "sft", "METHODS", f"training by {method}", "Use the method sft."),
        (bool(train.quantization), "TRAINED_FORMATS", "a quantised base", "Remove train.quantization."),
        (train.method.sft.packing, "PACKING", "packing", "Remove train.method.sft.packing."),
        (lora.dora, "DORA", "DoRA", "Remove train.adapter.lora.dora."),
        (
            train.adapter.HasField("prompt_tuning"),
            "PROMPT_TUNING",
            "prompt tuning",
            "Use adapter: {lora: {}}.",
        ),
        (lora.experts, "EXPERT_LORA", "adapters on experts", "Remove train.adapter.lora.experts."),
    ):
        if is_asked:
            raise TunefleetError(
                Reason.CAPABILITY_UNSUPPORTED,
                f"Backend 'deepspeed' does not have the capability {capability}: it does not do {what}.",
                hint=hint,
                metadata={"backend": "deepspeed", "capability": capability},
            )
