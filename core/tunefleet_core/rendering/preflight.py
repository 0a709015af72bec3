"""What every backend says of a trial before the first step: whether it is wanted, and how it may fail."""

from __future__ import annotations

import math
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.event_pb2 import Preflight
from tunefleet.job.v1.spec_pb2 import CheckpointPolicy
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import Reason, TunefleetError, from_exception
from tunefleet_core.rendering.answered import first_prompt
from tunefleet_core.rendering.renderer import Renderer, TemplateRefusedError
from tunefleet_core.rendering.rows import data_of_role

__all__ = [
    "is_preflight_wanted",
    "longest_rows",
    "naming_full_disk_of",
    "prompt_to_try",
    "require_number",
    "require_room",
    "rows_to_try",
    "stop_if_asked",
]

_DEFAULT_KEEP = 3
_SMALL_SHARE = 0.05
"""Share of the free memory below which a planned peak is so small that no error of the plan matters."""
_FULL_BYTES = 1 << 16
"""Less than this is left of a disk that is full."""


def is_preflight_wanted(context: RunContext) -> bool:
    """Whether a run begins with a trial: unless it was declined, or goes on from a checkpoint."""
    train = context.order.resolved_spec.spec.train
    is_declined = train.HasField("preflight") and not train.preflight
    return not is_declined and not context.order.resume_from


def longest_rows(lengths: Sequence[int], count: int) -> list[int]:
    """Return the numbers of the longest rows, the longest first, by their lengths in tokens."""
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])[:count]


def rows_to_try(context: RunContext, micro: int, free_bytes: int) -> int:
    """Return the rows of a trial step: a micro batch, or one row where memory is out of the question."""
    planned = context.order.resolved_spec.estimate.peak_bytes
    return 1 if planned and planned < _SMALL_SHARE * free_bytes else micro


def require_number(loss: float) -> None:
    """Refuse a run whose loss is no number before its first step.

    Raises:
        TunefleetError: BACKEND_FAILED.
    """
    if not math.isfinite(loss):
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"The loss of the longest rows is {loss} before anything was learned.",
            hint="Set train.dtype to float32, or check the weights of the base.",
        )


@contextmanager
def naming_full_disk_of(work: Path, found: Preflight) -> Generator[None]:
    """Tell a disk that is full by its name, whatever a library that writes there calls it.

    Raises:
        TunefleetError: DISK_FULL.
    """
    try:
        yield
    except Exception as error:
        # Libraries class a full disk as anything; what is left of it says what it was.
        free = shutil.disk_usage(work).free
        if from_exception(error).reason is Reason.DISK_FULL or free < _FULL_BYTES:
            raise _disk_full(work, free, found.checkpoint_bytes, 1) from error
        raise


def require_room(work: Path, found: Preflight, policy: CheckpointPolicy, *, steps: int, every: int) -> None:
    """Refuse a run whose checkpoints and output do not fit on the disk.

    Args:
        work: A folder on that disk.
        found: Has the size of a checkpoint in bytes.
        policy: How many are kept.
        steps: Steps of the whole run.
        every: Steps between two checkpoints.

    Raises:
        TunefleetError: DISK_FULL with both sizes.
    """
    keep = policy.keep if policy.HasField("keep") else _DEFAULT_KEEP
    # Kept, being written, output.
    count = min(keep + 1, steps // max(1, every)) + 1
    free = shutil.disk_usage(work).free
    if free < count * found.checkpoint_bytes:
        raise _disk_full(work, free, found.checkpoint_bytes, count)


def _disk_full(work: Path, free: int, each: int, count: int) -> TunefleetError:
    """Return the refusal of a run whose folders do not fit: `count` of `each` bytes, 0: not known."""
    need = f"{count} folders of {_size(each)} each" if each else "a checkpoint"
    return TunefleetError(
        Reason.DISK_FULL,
        f"The disk at {work} has {_size(free)} free, and the run writes {need}.",
        hint="Free space on this disk, or lower train.checkpoint.keep.",
        metadata={
            "path": str(work),
            "free_bytes": str(free),
            "checkpoint_bytes": str(each),
            "folders": str(count),
        },
    )


def prompt_to_try(context: RunContext, renderer: Renderer, *, longest: int) -> list[int]:
    """Return the prompt of the first row as a server would render it, its last `longest` tokens.

    Raises:
        TunefleetError: TEMPLATE_MISMATCH if no prompt can be rendered.
    """
    data = data_of_role(context.order.resolved_spec, "train")[0]
    method = context.order.resolved_spec.spec.train.method.WhichOneof("method") or "sft"
    method = "sft" if method == "distill" else method  # rows as for it, and the teacher's answers too
    line = 1
    try:
        line, prompt = first_prompt(method, data.path, renderer)
    except TemplateRefusedError as error:
        why = f"it renders the first row and refuses the question alone: {error}"
    else:
        if prompt:
            return prompt[-longest:]
        why = f"the question on line {line} becomes no token"
    raise TunefleetError(
        Reason.TEMPLATE_MISMATCH,
        f"The chat template cannot be served: {why}.",
        hint="Correct chat_template.jinja so that it renders with add_generation_prompt.",
        metadata={"path": data.path, "line": str(line)},
    )


def stop_if_asked(context: RunContext) -> None:
    """Raise RunStopped if the run was asked to stop before its first step."""
    if context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
        raise RunStopped("stopped before the first step")


def _size(count: int) -> str:
    """Return a number of bytes for people."""
    for unit, limit in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} bytes"
