"""An export run: a trained model written in a quantisation format, or nothing at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOrder, RunOutput
from tunefleet_compress.calibration import calibration_ids
from tunefleet_compress.recipes import Recipe, recipe_of
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract, write_contract
from tunefleet_core.parity.measured_aside import tops_from_json
from tunefleet_core.parity.quantized import check_quantized, quantized_contract
from tunefleet_core.worker.aside import run_aside
from tunefleet_core.worker.merge_first import whole_weights
from tunefleet_core.worker.stages import stage_teller

__all__ = ["STAGES", "export"]

STAGES = ("merge", "write", "check")
"""What an export does, in order; metrics tell the number of those that are done."""

_SMALL_MODEL_PARAMETERS = 50_000_000
"""Below this, splitting a matrix product over cores costs more than it saves."""


def export(context: RunContext) -> RunOutput:
    """Run an export order.

    Raises:
        RunStopped: the run was asked to stop; nothing is kept.
        TunefleetError: BASE_INVALID, DATA_INVALID, CAPABILITY_UNSUPPORTED, NUMBERS_MISMATCH,
            FIELD_INVALID, and what the backend that merges says.
    """
    order = context.order
    asked = order.resolved_spec.spec.export.quantize
    recipe = recipe_of(asked.format, asked.variant)
    if not order.adapter_dir and not order.resolved_spec.base.path:
        raise TunefleetError(
            Reason.BASE_INVALID,
            "The order names neither an adapter nor a whole model.",
            hint="Export a model that was trained here: tunefleet models list",
        )
    told = stage_teller(context, STAGES)
    told(0)
    with whole_weights(context) as source:
        told(1)
        with context.writing_output() as target:
            notices = _write(context, recipe, source, target, told)
    for text in notices:
        context.notice(text, severity="info")
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL)


def _write(
    context: RunContext, recipe: Recipe, source: Path, target: Path, told: Callable[[int], None]
) -> list[str]:
    """Write and check; return what to tell."""
    order = context.order
    spec, asked = order.resolved_spec, order.resolved_spec.spec.export.quantize
    contract = read_contract(source)
    prompts = [list(record.prompt_token_ids) for record in contract.numbers]
    rows = calibration_ids(spec, source) if recipe.needs_calibration else []
    where, visible = _place(order)
    scratch = Path(order.work_dir)
    made = run_aside(
        context,
        "tunefleet_compress.quantizing",
        {
            "source": str(source),
            "target": str(target),
            "form": asked.format,
            "variant": asked.variant,
            "rows": rows,
            "prompts": prompts,
            **where,
        },
        scratch=scratch,
        environment=visible,
    )
    told(2)
    task = {"model": str(target), "prompts": prompts, **where}
    found = run_aside(context, "tunefleet_compress.measuring", task, scratch=scratch, environment=visible)
    after = tops_from_json(found["numbers"])
    verdict = check_quantized(
        contract,
        tops_from_json(made["before"]),
        after,
        form=f"{asked.format}/{asked.variant}" if asked.variant else asked.format,
        allowed=recipe.tolerance,
        dtype=made["dtype"],
    )
    # No quantisation: an engine is held to the numbers of these weights as they are.
    write_contract(quantized_contract(contract, after, quantization="", dtype=made["dtype"]), target)
    told(3)
    return [verdict.summary, _made_of(made, asked.format, len(rows))]


def _place(order: RunOrder) -> tuple[dict[str, object], dict[str, str]]:
    """Return device and threads of the processes, and the variables that show them their devices.

    Devices are hidden rather than indexed, so that index 0 is right in every library.
    """
    gpus = [device for device in order.device_ids if not device.startswith("cpu")]
    small = order.resolved_spec.base.parameter_count < _SMALL_MODEL_PARAMETERS
    threads = order.threads or (1 if small else os.cpu_count() or 1)
    place: dict[str, object] = {"device": "cuda" if gpus else "cpu", "threads": threads}
    return place, {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}


def _made_of(made: Mapping[str, Any], form: str, rows: int) -> str:
    groups = f" in groups of {made['group_size']}" if made["group_size"] else ""
    calibrated = f", calibrated with {rows} training rows" if rows else ""
    return (
        f"{made['layers']} layers with {made['share']:.0%} of the model's numbers are in {form}{groups}"
        f"{calibrated}; the others stay as they were."
    )
