"""An adapter merged into its base: what may be merged, and the record the result is held to."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity.contract import NumbersRecord, PrecisionRecord, TopLogprobs, TrainServeContract
from tunefleet_core.parity.numbers import NumbersVerdict, check_numbers, judge_numbers

__all__ = ["check_merged", "merged_dtype", "remeasured", "require_mergeable", "require_room", "stored_format"]

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def stored_format(base: BaseFacts) -> str:
    """Return the format that a base says it is stored in, such as `mxfp4`; empty: whole numbers."""
    config = json.loads(base.config_json or "{}").get("quantization_config")
    return str(config.get("quant_method") or "unknown") if isinstance(config, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def merged_dtype(base: BaseFacts) -> str:
    """Return the number type that most of the numbers of a base are stored in."""
    counts: dict[str, int] = {}
    for tensor in base.tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + math.prod(tensor.shape)
    most = max(counts, key=lambda name: counts[name], default="F32")
    return _STORED.get(most, "bfloat16")


def require_mergeable(
    contract: TrainServeContract, base: BaseFacts, *, unpacked: Sequence[str] = ("",)
) -> None:
    """Refuse a base that is not the adapter's, or that no weight can be added to.

    Args:
        contract: The adapter's record.
        base: The base as resolved.
        unpacked: Formats that the backend loads as whole numbers, without loss.

    Raises:
        TunefleetError: BASE_INVALID.
    """
    if contract.base_digest and contract.base_digest != base.base_digest:
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"The adapter was trained on base {contract.base_digest[:12]}; "
            f"'{base.model or base.path}' is base {base.base_digest[:12]}.",
            hint="Merge it into the base it was trained on.",
            metadata={"trained": contract.base_digest, "found": base.base_digest},
        )
    if stored_format(base) not in unpacked:
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"The base '{base.model or base.path}' is stored quantised, so nothing can be merged into it.",
            hint="Serve the adapter beside the base.",
            metadata={"path": base.path},
        )


def require_room(base: BaseFacts, target: Path, dtype: str) -> None:
    """Refuse a merge whose result does not fit onto the disk.

    Raises:
        TunefleetError: DISK_FULL with figures.
    """
    need = base.parameter_count * _BYTES[dtype]
    free = shutil.disk_usage(target).free
    if free < need:
        raise TunefleetError(
            Reason.DISK_FULL,
            f"The merged model takes {need:,} bytes; the disk at {target.parent} has {free:,} free.",
            hint="Free space on this disk, then export again.",
            metadata={"path": str(target), "needed_bytes": str(need), "free_bytes": str(free)},
        )


def remeasured(
    contract: TrainServeContract, base: Sequence[TopLogprobs], tuned: Sequence[TopLogprobs], *, dtype: str
) -> tuple[TrainServeContract, str]:
    """Return the record of a merged model whose adapter was trained on a quantised base, and what to tell.

    Args:
        contract: The adapter's record.
        base: What the whole base answers to its reference prompts.
        tuned: The same with the adapter on it, before the merge.
        dtype: Number type that both were measured in.
    """
    records = tuple(
        NumbersRecord(prompt_token_ids=record.prompt_token_ids, base=before, tuned=after)
        for record, before, after in zip(contract.numbers, base, tuned, strict=True)
    )
    as_trained = replace(contract, unquantized=())
    measured = [record.tuned.as_mapping() for record in records]
    moved = judge_numbers(as_trained, measured, served_dtype=dtype).distance_to_tuned
    remark = (
        f"The adapter was trained on a base quantised to {contract.precision.quantization}; on the base in "
        f"{dtype} it answers {moved:.4f} nats away from there."
    )
    precision = PrecisionRecord(dtype=dtype, quantization="")
    return replace(as_trained, numbers=records, precision=precision), remark


def check_merged(
    contract: TrainServeContract, measured: Sequence[Mapping[int, float]], *, dtype: str
) -> NumbersVerdict:
    """Hold what was written, loaded again, to the numbers of the tuned model.

    Raises:
        TunefleetError: NUMBERS_MISMATCH.
    """
    try:
        return check_numbers(contract, measured, served_dtype=dtype)
    except TunefleetError as error:
        raise TunefleetError(
            Reason.NUMBERS_MISMATCH,
            "The merged model does not answer as the tuned model did, so it is not kept. "
            + error.message.replace("The engine", "The merged model"),
            hint="Export with merge.dtype float32, or serve the adapter beside its base.",
            metadata=error.metadata,
        ) from error
