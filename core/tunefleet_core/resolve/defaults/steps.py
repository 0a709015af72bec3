"""What depends on how many steps there are and how large the base is."""

from __future__ import annotations

import math

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.job.v1.spec_pb2 import TrainSpec
from tunefleet_core.backend import choice_values
from tunefleet_core.resolve.defaults.filling import Defaults

__all__ = ["fill_checkpointing", "fill_warmup", "micro_batch_size"]

_WARMUP, _WARMUP_STEPS, _WARMUP_MOST = 0.03, 5, 0.10
# Parameters of the base up to which a micro batch of that many rows is tried.
_MICRO_BATCHES = ((100_000_000, 8), (1_000_000_000, 4))
_SMALLEST_MICRO_BATCH = 2


def micro_batch_size(batch_size: int, parameters: int, *, devices: int = 1) -> tuple[int, str]:
    """Return rows per forward pass: the largest divisor of a device's share that suits the base, and why."""
    share = max(1, batch_size // devices)
    wanted = next((rows for most, rows in _MICRO_BATCHES if 0 < parameters <= most), _SMALLEST_MICRO_BATCH)
    rows = max(rows for rows in range(1, min(wanted, share) + 1) if share % rows == 0)
    size = f"{_short(parameters)} parameters" if parameters else "unknown size"
    divided = "the batch" if devices == 1 else f"the {share} rows of a step that each device takes"
    return rows, f"fits most devices for a base of {size} and divides {divided}"


def fill_checkpointing(
    defaults: Defaults, train: TrainSpec, manifest: BackendManifest, *, device_kind: str
) -> None:
    """Fill whether activations are computed again, if the backend can."""
    field = "train.gradient_checkpointing"
    if "true" not in choice_values(manifest, field):
        return
    if device_kind == "cuda":
        defaults.fill(field, True, "activations are most of the peak; costs about a third of the time")
    else:
        defaults.fill(field, False, "the host has memory, and time counts more")


def fill_warmup(defaults: Defaults, train: TrainSpec, total_steps: int) -> None:
    """Fill the share of steps in which the rate rises, unless their number is given."""
    if not train.optim.HasField("warmup_steps"):
        ratio, why = _warmup_ratio(total_steps)
        defaults.fill("train.optim.warmup_ratio", ratio, why)


def _warmup_ratio(total_steps: int) -> tuple[float, str]:
    if total_steps <= 0:
        return _WARMUP, "3 % of the steps"
    wanted = max(_WARMUP, _WARMUP_STEPS / total_steps)
    if wanted <= _WARMUP:
        return _WARMUP, f"3 % of {total_steps} steps"
    if wanted > _WARMUP_MOST:
        return _WARMUP_MOST, f"10 % at most: the run has only {total_steps} steps"
    return math.ceil(wanted * 1e4) / 1e4, f"{_WARMUP_STEPS} of {total_steps} steps, more than 3 %"


def _short(count: int) -> str:
    return f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.3g}M"
