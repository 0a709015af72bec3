"""An export in MXFP4: merge if there is an adapter, round the experts, read again, compare.

GPT-OSS is published in this layout and comes back in it. Merging and rounding are one run
here, since this backend does both; the merged model is scratch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import (
    TopLogprobs,
    TrainServeContract,
    read_contract,
    write_contract,
)
from tunefleet_core.parity.merged import merged_dtype
from tunefleet_core.parity.quantized import check_quantized, quantized_contract
from tunefleet_trl.loading import Hardware, load_base
from tunefleet_trl.merging import merge_adapter
from tunefleet_trl.mxfp4 import write_mxfp4_folder
from tunefleet_trl.written import FORMAT, MODEL_TYPES, TOLERANCE

__all__ = ["STAGES", "export_mxfp4"]

STAGES = ("merge", "measure", "round", "write", "check")
"""What such an export does, in order; `told` is called with the number of those that are done."""


def export_mxfp4(context: RunContext, target: Path, *, told: Callable[[int], None]) -> str:
    """Write the model of an order into an existing, empty folder; return what it cost, for people.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED for another format or type of model,
            NUMBERS_MISMATCH if the file, read again, is further from the whole weights than
            the format may cost; what a merge raises.
    """
    spec = context.order.resolved_spec
    _refuse_others(spec.spec.export.quantize.format, spec.base)
    dtype = merged_dtype(spec.base)
    told(0)
    with _whole_weights(context, dtype) as source:
        told(1)
        contract = read_contract(source)
        whole = _measure(spec.base, source, contract, dtype)
        told(2)
        write_mxfp4_folder(source, target, before_each=lambda: _stop_if_asked(context))
    told(3)
    rounded = _measure(spec.base, target, contract, dtype)
    told(4)
    verdict = check_quantized(contract, whole, rounded, form=FORMAT, allowed=TOLERANCE, dtype=dtype)
    # No quantisation: an engine is held to these weights as they are.
    write_contract(quantized_contract(contract, rounded, quantization="", dtype=dtype), target)
    told(5)
    return verdict.summary


def _stop_if_asked(context: RunContext) -> None:
    if context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
        raise RunStopped("stopped while the experts were rounded")


def _refuse_others(asked: str, base: BaseFacts) -> None:
    if asked != FORMAT:
        what = f"write the format '{asked}'"
    elif base.model_type not in MODEL_TYPES:
        what = f"write models of the type '{base.model_type}' as {FORMAT}, only {', '.join(MODEL_TYPES)}"
    else:
        return
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"The backend 'trl' does not {what}.",
        hint="Install a backend that does, and leave 'backend' out: tunefleet plugins install compress",
        metadata={"backend": "trl", "capability": "QUANTIZE", "format": asked},
    )


@contextmanager
def _whole_weights(context: RunContext, dtype: str) -> Iterator[Path]:
    """Yield the folder of the model in whole numbers: its own, or a merged one that is removed."""
    order = context.order
    if not order.adapter_dir:
        yield Path(order.resolved_spec.base.path)
        return
    folder = Path(order.work_dir) / "merged-to-round"
    shutil.rmtree(folder, ignore_errors=True)  # an earlier life of this run may have left it
    folder.mkdir(parents=True)
    try:
        merge_adapter(order.resolved_spec.base, Path(order.adapter_dir), folder, dtype=dtype)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(base: BaseFacts, folder: Path, contract: TrainServeContract, dtype: str) -> list[TopLogprobs]:
    """Load a folder as a server would and return its numbers on the reference prompts."""
    from tunefleet_trl.reference_numbers import measure

    facts = BaseFacts()
    facts.CopyFrom(base)
    facts.path = str(folder)
    facts.config_json = (folder / "config.json").read_text(encoding="utf-8")
    model = load_base(facts, Hardware(kind="cpu", dtype=dtype))
    return measure(model, [record.prompt_token_ids for record in contract.numbers])
