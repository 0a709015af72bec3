"""What every backend says of a trial before the first step: whether it is wanted, and how it may fail."""

from __future__ import annotations

from pathlib import Path

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.spec_pb2 import CheckpointPolicy
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering.answered import first_prompt
from tunefleet_core.rendering.renderer import Renderer, TemplateRefusedError
from tunefleet_core.rendering.rows import data_of_role

__all__ = [
    "disk_full",
    "folders_kept",
    "is_preflight_wanted",
    "prompt_to_try",
    "size_in_words",
    "stop_if_asked",
]

_DEFAULT_KEEP = 3


def is_preflight_wanted(context: RunContext) -> bool:
    """Whether a run begins with a trial: unless it was declined, or goes on from a checkpoint."""
    train = context.order.resolved_spec.spec.train
    is_declined = train.HasField("preflight") and not train.preflight
    return not is_declined and not context.order.resume_from


def folders_kept(policy: CheckpointPolicy, *, total_steps: int, every_steps: int) -> int:
    """Return how many folders of a checkpoint's size are on the disk at most: kept, being written, output."""
    keep = policy.keep if policy.HasField("keep") else _DEFAULT_KEEP
    written = total_steps // max(1, every_steps)
    return min(keep + 1, written) + 1


def disk_full(work: Path, free: int, each: int, count: int) -> TunefleetError:
    """Return the refusal of a run whose folders do not fit: `count` of `each` bytes, 0: not known."""
    need = f"{count} folders of {size_in_words(each)} each" if each else "a checkpoint"
    return TunefleetError(
        Reason.DISK_FULL,
        f"The disk at {work} has {size_in_words(free)} free, and the run writes {need}.",
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


def size_in_words(count: int) -> str:
    """Return a number of bytes for people."""
    for unit, limit in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} bytes"
