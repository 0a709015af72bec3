"""An export run: whole weights to MLX's format, kept if they answer as the weights before do.

mlx-lm rounds and writes, and mlx-lm loads again, each time in a fresh process. Held to the
record of training are the log-probabilities, before and after rounding. The tokenizer is
the model's own, file by file: the library would write it in a newer form.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import (
    CONTRACT_FILE,
    TopLogprobs,
    TrainServeContract,
    read_contract,
    write_contract,
)
from tunefleet_core.parity.measured_aside import tops_from_json
from tunefleet_core.parity.quantized import check_quantized, quantized_contract
from tunefleet_core.resolve import own_dtype
from tunefleet_core.worker.aside import run_aside
from tunefleet_core.worker.merge_first import whole_weights
from tunefleet_core.worker.stages import stage_teller
from tunefleet_mlx.variants import Variant, find_variant

__all__ = ["STAGES", "export"]

STAGES = ("merge", "quantize", "check")
"""What an export does, in order."""

_WRITTEN = ("config.json", "model*.safetensors", "model.safetensors.index.json")
"""Of what mlx-lm leaves: the rest is the model's own, or a page for a model hub."""
_FILE_MODE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """An export under way."""

    context: RunContext
    variant: Variant
    source: Path
    contract: TrainServeContract
    scratch: Path

    @property
    def stored_dtype(self) -> str:
        """Number type of the whole weights: mlx-lm computes in it, whatever training computed in."""
        return own_dtype(self.context.order.resolved_spec.base)

    def aside(self, part: str, **task: object) -> dict[str, Any]:
        devices = self.context.order.device_ids
        kind = "metal" if any(not name.startswith("cpu") for name in devices) else "cpu"
        return run_aside(
            self.context, f"tunefleet_mlx.{part}", {**task, "device_kind": kind}, scratch=self.scratch
        )

    def measure(self, folder: Path) -> list[TopLogprobs]:
        prompts = [list(record.prompt_token_ids) for record in self.contract.numbers]
        return tops_from_json(self.aside("measuring", folder=str(folder), prompts=prompts)["numbers"])


def export(context: RunContext) -> RunOutput:
    """Run an export order.

    Raises:
        RunStopped: the run was asked to stop; nothing is kept.
        TunefleetError: BASE_INVALID, DISK_FULL, NUMBERS_MISMATCH, FIELD_INVALID.
    """
    variant = find_variant(context.order.resolved_spec.spec.export.quantize.variant)
    work_dir = Path(context.order.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    told = stage_teller(context, STAGES)
    told(0)
    with (
        whole_weights(context) as source,
        tempfile.TemporaryDirectory(dir=work_dir, prefix="mlx-") as scratch,
        context.writing_output() as folder,
    ):
        work = _Work(
            context=context,
            variant=variant,
            source=source,
            contract=read_contract(source),
            scratch=Path(scratch),
        )
        _require_disk(work)
        _write(work, folder, told)
    told(len(STAGES))
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL)


def _write(work: _Work, folder: Path, told: Callable[[int], None]) -> None:
    told(1)
    converted = work.scratch / "converted"
    work.aside("converting", source=str(work.source), target=str(converted), bits=work.variant.bits)
    _assemble(work.source, converted, folder)
    told(2)
    before, after = work.measure(work.source), work.measure(folder)
    verdict = check_quantized(
        work.contract,
        before,
        after,
        form=f"mlx/{work.variant.name}",
        allowed=work.variant.tolerance,
        dtype=work.stored_dtype,
    )
    write_contract(
        quantized_contract(work.contract, after, quantization="mlx", dtype=work.stored_dtype), folder
    )
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    work.context.notice(f"The weights take {size:,} bytes. {verdict.summary}", severity="info")


def _assemble(source: Path, converted: Path, folder: Path) -> None:
    """Put together what was written and what the model has beside its weights."""
    for pattern in _WRITTEN:
        for file in converted.glob(pattern):
            file.rename(folder / file.name)
    for file in source.iterdir():
        is_weights = file.name.endswith((".safetensors", ".safetensors.index.json"))
        if file.is_file() and not is_weights and file.name not in ("config.json", CONTRACT_FILE):
            shutil.copyfile(file, folder / file.name)
    for file in folder.iterdir():
        file.chmod(_FILE_MODE)


def _require_disk(work: _Work) -> None:
    """Refuse early, with figures; a scale and a bias of 32 bits at most per group are included."""
    count = work.context.order.resolved_spec.base.parameter_count
    need = count * (work.variant.bits + 1) // 8
    free = shutil.disk_usage(work.scratch).free
    if free < need:
        raise TunefleetError(
            Reason.DISK_FULL,
            f"This model takes {need:,} bytes as mlx/{work.variant.name}; "
            f"the disk at {work.scratch.parent} has {free:,} free.",
            hint="Free space on this disk, then export again.",
            metadata={"needed_bytes": str(need), "free_bytes": str(free)},
        )
