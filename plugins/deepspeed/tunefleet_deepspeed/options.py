"""What a job may say under `backend_options`, and what it means to DeepSpeed. Imports no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.backend.v1.backend_pb2 import MemoryPart
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.backend import memory_placement
from tunefleet_core.errors import TunefleetError

__all__ = ["PLACEMENTS", "SCHEMA", "ZeroOptions", "engine_config", "zero_options"]

_WHOLE_WEIGHTS, _SPLIT_WEIGHTS = 2, 3
"""The highest stage that keeps weights whole on every device, and the one that splits them too."""
_NEVER = 1 << 31
_LIBAIO_HEADERS = (Path("/usr/include/libaio.h"), Path("/usr/local/include/libaio.h"))


def _places() -> list[str]:
    """Return where state can be kept instead of on a device; a disk only where its library can be built."""
    return ["cpu", "nvme"] if any(path.exists() for path in _LIBAIO_HEADERS) else ["cpu"]


SCHEMA: dict[str, object] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "zero_stage": {
            "type": "integer",
            "enum": [1, 2, 3],
            "description": "What is split over the devices: the optimiser, gradients too, weights too.",
        },
        "offload_optimizer": {
            "type": "string",
            "enum": _places(),
            "description": "Where the optimiser's state is kept and stepped instead of on the device.",
        },
        "offload_weights": {
            "type": "string",
            "enum": _places(),
            "description": "Where weights are kept that no layer needs now. Needs zero_stage 3.",
        },
    },
    "additionalProperties": False,
    "dependentSchemas": {"offload_weights": {"properties": {"zero_stage": {"const": 3}}}},
}

_WEIGHTS, _STEPPED = (
    (MemoryPart.MEMORY_PART_WEIGHTS,),
    (MemoryPart.MEMORY_PART_GRADIENTS, MemoryPart.MEMORY_PART_OPTIMIZER),
)
PLACEMENTS = (
    # The engine steps on float32 copies of its own, whatever the weights are.
    *(
        memory_placement(
            option="zero_stage",
            value=str(stage),
            is_default=stage == _SPLIT_WEIGHTS,
            divided=divided,
            copies_values=True,
        )
        for stage, divided in ((1, _STEPPED[1:]), (2, _STEPPED), (3, _WEIGHTS + _STEPPED))
    ),
    *(
        memory_placement(option=option, value=place, moved=moved, is_on_disk=place == "nvme")
        for option, moved in (("offload_optimizer", _STEPPED), ("offload_weights", _WEIGHTS))
        for place in ("cpu", "nvme")
    ),
)
"""What the options put where, for the plan: gradients go to where they are stepped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroOptions:
    """How a run is split: `SCHEMA`'s fields, defaults filled in; an empty place is the device."""

    stage: int = _SPLIT_WEIGHTS
    offload_optimizer: str = ""
    offload_weights: str = ""

    @property
    def splits_weights(self) -> bool:
        """Whether no device holds all weights."""
        return self.stage == _SPLIT_WEIGHTS


def zero_options(spec: JobSpec) -> ZeroOptions:
    """Return the options of a job.

    Raises:
        TunefleetError: FIELD_INVALID for weights that are to be kept elsewhere and are not split.
    """
    given = spec.backend_options
    options = ZeroOptions(
        stage=int(given["zero_stage"]) if "zero_stage" in given else _SPLIT_WEIGHTS,
        offload_optimizer=str(given["offload_optimizer"]) if "offload_optimizer" in given else "",
        offload_weights=str(given["offload_weights"]) if "offload_weights" in given else "",
    )
    if options.offload_weights and not options.splits_weights:
        raise TunefleetError.field(
            "backend_options.offload_weights",
            f"needs zero_stage 3: at stage {options.stage} every device holds all weights",
        )
    return options


def engine_config(options: ZeroOptions, *, work_dir: str, pins_memory: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration; what is `auto` is the spec's, filled in by the library.

    Args:
        options: How the run is split.
        work_dir: Folder of the run: what goes to a disk lies there.
        pins_memory: Whether host memory is locked for a device to read.
    """
    zero: dict[str, Any] = {
        "stage": options.stage,
        # The default of 5e8 numbers is a buffer of 2 GB on every device.
        "reduce_bucket_size": "auto",
    }
    if options.splits_weights:
        zero |= {"stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}
    places = {"offload_optimizer": options.offload_optimizer, "offload_param": options.offload_weights}
    for name, place in places.items():
        if place:
            zero[name] = {"device": place, "pin_memory": pins_memory}
        if place == "nvme":
            zero[name]["nvme_path"] = str(Path(work_dir) / "offloaded")
    return {
        "zero_optimization": zero,
        # Torch's AdamW steps on the host as it does on a device; the library's own would be compiled first.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "steps_per_print": _NEVER,
    }
