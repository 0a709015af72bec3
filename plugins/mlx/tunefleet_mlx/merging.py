"""Merge an adapter into its base, and prove by the numbers that the result is the tuned model.

The base is loaded fresh, in whole numbers: what training may have rounded is not merged into.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import TunefleetError
from tunefleet_core.parity import TrainServeContract, read_contract, write_contract
from tunefleet_core.parity.merged import (
    check_merged,
    merged_dtype,
    remeasured,
    require_mergeable,
    require_room,
)
from tunefleet_core.worker.stages import stage_teller
from tunefleet_mlx.adaptation import load_adapter
from tunefleet_mlx.devices import Hardware, prepare_hardware
from tunefleet_mlx.loading import load_base, parameters_of
from tunefleet_mlx.model_files import require_same_names, write_model_folder
from tunefleet_mlx.reference_numbers import top_logprobs

__all__ = ["STAGES", "export_merged", "merge_adapter"]

STAGES = ("load", "merge", "write", "check")
"""What a merge does, in order; `told` is called with the number of those that are done."""


def export_merged(context: RunContext) -> RunOutput:
    """Run an order to write an adapter and its base as whole weights.

    Raises:
        RunStopped: the run was asked to stop; nothing is kept.
        TunefleetError: as `merge_adapter`, and FIELD_INVALID if the order names no adapter.
    """
    spec = context.order.resolved_spec
    if not context.order.adapter_dir:
        raise TunefleetError.field("export.model.model", "names no adapter of the fleet")
    hardware = prepare_hardware(context.order)
    told = stage_teller(context, STAGES)
    adapter, dtype = Path(context.order.adapter_dir), spec.spec.export.merge.dtype
    with context.writing_output() as folder:
        remarks = merge_adapter(spec.base, adapter, folder, hardware, dtype=dtype, told=told)
    for remark in remarks:
        context.notice(remark, severity="info")
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL)


def merge_adapter(
    base: BaseFacts,
    adapter: Path,
    target: Path,
    hardware: Hardware,
    *,
    dtype: str = "",
    told: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Write base and adapter as one model into an existing, empty folder; return what to tell.

    Args:
        base: The base as resolved.
        adapter: The adapter, in PEFT's form, with its `contract.json`.
        target: Where to.
        hardware: What it is merged on; its number type is not that of the weights.
        dtype: Number type of the weights; empty: the base's own.
        told: Called with the number of stages that are done.

    Raises:
        TunefleetError: BASE_INVALID if the base is not the adapter's, CAPABILITY_UNSUPPORTED for a
            class that mlx-lm holds in another form than its files, DISK_FULL, NUMBERS_MISMATCH if
            the written folder, loaded again, does not answer as the tuned model did.
    """
    contract = read_contract(adapter)
    require_mergeable(contract, base)
    wanted = dtype or merged_dtype(base)
    require_room(base, target, wanted)
    computed = wanted if wanted == merged_dtype(base) else "float32"
    told(0)
    model = load_base(base, Hardware(kind=hardware.kind, dtype=computed))
    require_same_names(base, parameters_of(model))
    kept, remarks = _with_adapter(model, adapter, contract, computed)
    told(1)
    _fuse(model)
    told(2)
    weights = {name: value.astype(getattr(mx, wanted)) for name, value in parameters_of(model).items()}
    trained = contract.template
    write_model_folder(target, base, weights, template=trained.text, stops=list(trained.stop_token_ids))
    write_contract(kept, target)
    del model, weights
    gc.collect()
    mx.clear_cache()
    told(3)
    facts = BaseFacts()
    facts.CopyFrom(base)
    facts.path = str(target)
    written = load_base(facts, Hardware(kind=hardware.kind, dtype=wanted))
    measured = [top.as_mapping() for top in top_logprobs(written, _prompts(kept))]
    verdict = check_merged(kept, measured, dtype=wanted)
    told(4)
    return [*remarks, verdict.summary.replace("The engine", "The merged model")]


def _with_adapter(
    model: Any, adapter: Path, contract: TrainServeContract, dtype: str
) -> tuple[TrainServeContract, list[str]]:
    """Put the adapter on the base; return the record of the result, and what to tell of it.

    Numbers that were measured on a rounded base are measured again on the whole one.
    """
    if not contract.precision.quantization:
        load_adapter(model, adapter)
        return contract, []
    before = top_logprobs(model, _prompts(contract))
    load_adapter(model, adapter)
    kept, remark = remeasured(contract, before, top_logprobs(model, _prompts(contract)), dtype=dtype)
    return kept, [remark]


def _fuse(model: Any) -> None:
    """Add every update to its weight; the layers are then as those of the base."""
    fused = [(name, layer.fuse()) for name, layer in model.named_modules() if hasattr(layer, "fuse")]
    model.update_modules(tree_unflatten(fused))
    mx.eval(model.parameters())


def _prompts(contract: TrainServeContract) -> list[list[int]]:
    return [list(record.prompt_token_ids) for record in contract.numbers]
