"""From what was trained in parts to a whole model on the first process, written as any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import Renderer, TrainingRows
from tunefleet_trl.adaptation import adapter_config
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.outcome import base_numbers_of, write_output
from tunefleet_trl.split.trainer import SplitTrainer

__all__ = ["write_whole"]


def write_whole(
    context: RunContext, trainer: SplitTrainer, renderer: Renderer, rows: TrainingRows, *, dtype: str
) -> RunOutput:
    """Load the base anew, whole, put on it what was trained, and write it as an undivided run writes its own.

    On the host: what is split over devices need not fit on one.

    Args:
        context: The run.
        trainer: It has finished, and its processes have parted.
        renderer: Tokenizer and template of the run.
        rows: Its rows.
        dtype: The number type that it computed in.
    """
    spec = context.order.resolved_spec
    whole = Hardware(kind="cpu", dtype=dtype)
    base = load_base(spec.base, whole)
    base_numbers = base_numbers_of(context, base, rows)
    trainer.model = _put_trained(base, trainer.trained, spec)
    return write_output(context, trainer, renderer, rows, hardware=whole, base_numbers=base_numbers)


def _put_trained(model: Any, weights: Mapping[str, Any], spec: ResolvedSpec) -> Any:
    """Return a base with the trained weights on it: in the place of its own, or as an adapter.

    Raises:
        TunefleetError: BACKEND_FAILED naming a weight that is missing or one too many.
    """
    config = adapter_config(spec)
    if config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, config)
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if odd := wanted ^ weights.keys():
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"What was trained is not what the base has: {len(odd)} weights differ, such as {min(odd)}.",
            hint="Report it with the name of the base.",
        )
    model.load_state_dict(weights, strict=False)
    return model
