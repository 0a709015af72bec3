"""Merge an adapter into its base, and prove by the numbers that the result is the tuned model.

The base is loaded fresh and in full precision, in a process that has loaded no other: weights
that were trained beside may have been quantised or repacked in place, and merging into those
gives garbage. An export is such a process already; a training run starts one of its own:

    python -m tunefleet_trl.merging --base FILE --adapter DIR --target DIR [--dtype float32]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.rpc.status_pb2 import Status

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import (
    Reason,
    TunefleetError,
    error_from_status,
    from_exception,
    status_from_error,
)
from tunefleet_core.parity import (
    NumbersVerdict,
    TopLogprobs,
    TrainServeContract,
    read_contract,
    write_contract,
)
from tunefleet_core.parity.merged import (
    check_merged,
    merged_dtype,
    remeasured,
    require_mergeable,
    require_room,
)
from tunefleet_trl.loading import Hardware, hush_libraries, load_adapter, load_base

__all__ = ["STAGES", "Merged", "merge_adapter", "merge_in_own_process"]

STAGES = ("load", "merge", "write", "check")
"""What a merge does, in order; `told` is called with the number of those that are done."""

_POLL_SECONDS = 0.05
_UNPACKED = ("", "mxfp4")
"""Formats in which a base may be stored: loading gives whole numbers, without loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a merge found: the verdict on the written folder, and a sentence if it was measured anew."""

    verdict: NumbersVerdict
    remark: str = ""


def merge_adapter(
    base: BaseFacts,
    adapter_dir: Path,
    target: Path,
    *,
    dtype: str = "",
    told: Callable[[int], None] = lambda done: None,
) -> Merged:
    """Write base and adapter as one model into an existing, empty folder.

    Call it in a process that has loaded no weights. The folder holds safetensors, the base's
    config and tokenizer, the template the adapter was trained with, and its contract; where
    the adapter was trained on a quantised base, the contract's numbers are those of the
    adapter on the base in full precision, measured before the merge.

    Args:
        base: The base as resolved.
        adapter_dir: The adapter with its `contract.json`.
        target: Where to.
        dtype: Number type of the weights; empty: the base's own.
        told: Called with the number of stages that are done.

    Raises:
        TunefleetError: BASE_INVALID if the base is not the adapter's, DISK_FULL with figures,
            NUMBERS_MISMATCH if the written folder, loaded again, does not answer as the
            tuned model did.
    """
    contract = read_contract(adapter_dir)
    require_mergeable(contract, base, unpacked=_UNPACKED)
    wanted = dtype or merged_dtype(base)
    require_room(base, target, wanted)
    computed = wanted if wanted == merged_dtype(base) else "float32"
    told(0)
    model = load_adapter(load_base(base, Hardware(kind="cpu", dtype=computed)), str(adapter_dir))
    model.eval()
    kept, remark = _numbers_to_keep(contract, model, computed)
    told(1)
    merged = _merged(model).to(dtype=_torch_dtype(wanted))
    told(2)
    _write(merged, target, base, kept)
    del model, merged
    gc.collect()
    told(3)
    verdict = _check(base, target, kept, wanted)
    told(4)
    return Merged(verdict=verdict, remark=remark)


def merge_in_own_process(context: RunContext, adapter_dir: Path, target: Path, *, dtype: str = "") -> Merged:
    """Do what `merge_adapter` does in a new process, and end it if the run is to stop.

    Raises:
        RunStopped: the run was asked to stop; the process is gone.
        TunefleetError: as `merge_adapter`, and BACKEND_FAILED if the process died.
    """
    scratch = adapter_dir.with_name(adapter_dir.name + ".merge")
    scratch.mkdir()
    facts = scratch / "base.pb"
    facts.write_bytes(context.order.resolved_spec.base.SerializeToString())
    command = [
        *(sys.executable, "-m", "tunefleet_trl.merging", "--base", str(facts)),
        *("--adapter", str(adapter_dir), "--target", str(target), "--dtype", dtype),
    ]
    # Its output is this process's own: it reaches the log of the run.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
                raise RunStopped("stopped while the adapter was merged")
            time.sleep(_POLL_SECONDS)
        return _result(scratch, process.returncode)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _result(scratch: Path, code: int) -> Merged:
    if (scratch / "error.pb").is_file():
        raise error_from_status(Status.FromString((scratch / "error.pb").read_bytes()))
    if code:
        raise TunefleetError(
            Reason.OUT_OF_MEMORY if code == -9 else Reason.BACKEND_FAILED,
            f"The process that merges the adapter ended with exit code {code}.",
            hint="Merge on a host with memory for the whole base, or read the log: tunefleet jobs logs NAME",
            metadata={"exit": str(code)},
        )
    found = json.loads((scratch / "merged.json").read_text(encoding="utf-8"))
    return Merged(verdict=NumbersVerdict(**found["verdict"]), remark=found["remark"])


def _numbers_to_keep(contract: TrainServeContract, model: Any, dtype: str) -> tuple[TrainServeContract, str]:
    """Return the contract of the merged model, and what to tell if its numbers are new."""
    if not contract.precision.quantization:
        return contract, ""
    base: list[TopLogprobs] = []
    tuned: list[TopLogprobs] = []
    for record in contract.numbers:
        with model.disable_adapter():
            base.append(_top(model, record.prompt_token_ids))
        tuned.append(_top(model, record.prompt_token_ids))
    return remeasured(contract, base, tuned, dtype=dtype)


def _top(model: Any, prompt: Any) -> Any:
    from tunefleet_trl.reference_numbers import top_logprobs

    return top_logprobs(model, prompt)


def _merged(model: Any) -> Any:
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # the library found a weight that is no number any more
        raise TunefleetError(
            Reason.NUMBERS_MISMATCH,
            f"The adapter cannot be merged: {error}",
            hint="Train the adapter again.",
        ) from error


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _write(model: Any, target: Path, base: BaseFacts, contract: TrainServeContract) -> None:
    from tunefleet_trl.model_files import save_model_folder

    trained = contract.template
    save_model_folder(model, target, base, template=trained.text, stops=trained.stop_token_ids)
    write_contract(contract, target)


def _check(base: BaseFacts, target: Path, contract: TrainServeContract, dtype: str) -> NumbersVerdict:
    """Load what was written as a server would and hold it to the numbers."""
    facts = BaseFacts()
    facts.CopyFrom(base)
    facts.path = str(target)
    facts.config_json = (target / "config.json").read_text(encoding="utf-8")
    model = load_base(facts, Hardware(kind="cpu", dtype=dtype))
    model.eval()
    measured = [_top(model, record.prompt_token_ids).as_mapping() for record in contract.numbers]
    return check_merged(contract, measured, dtype=dtype)


def main() -> None:
    """Merge in this process, as `merge_in_own_process` asks; the outcome goes beside `--base`."""
    from tunefleet_core.worker.rank import die_with_parent

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, type=Path, help="serialised BaseFacts")
    parser.add_argument("--adapter", required=True, type=Path)
    parser.add_argument("--target", required=True, type=Path)
    parser.add_argument("--dtype", default="")
    arguments = parser.parse_args()
    die_with_parent()
    hush_libraries()
    scratch: Path = arguments.base.parent
    try:
        base = BaseFacts.FromString(arguments.base.read_bytes())
        found = merge_adapter(base, arguments.adapter, arguments.target, dtype=arguments.dtype)
    except Exception as error:  # the edge of this process: classed here, raised in the other one
        if not isinstance(error, TunefleetError):
            sys.excepthook(type(error), error, error.__traceback__)
        (scratch / "error.pb").write_bytes(status_from_error(from_exception(error)).SerializeToString())
    else:
        verdict = found.verdict
        content = {
            "verdict": {
                "distance_to_tuned": verdict.distance_to_tuned,
                "distance_to_base": verdict.distance_to_base,
                "accepted": verdict.accepted,
                "summary": verdict.summary,
            },
            "remark": found.remark,
        }
        (scratch / "merged.json").write_text(json.dumps(content), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # libraries leave threads that would delay a normal exit


if __name__ == "__main__":
    main()
