"""An export run: whole weights to MLX's format, kept if they answer as the weights before do.

mlx-lm rounds and writes, and mlx-lm loads again, each time in a fresh process. Held to the
record of training are the log-probabilities, before and after rounding. The tokenizer is
the model's own, file by file: the library would write it in a newer form.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.parity import TopLogprobs, write_contract
from tunefleet_core.parity.measured_aside import tops_from_json
from tunefleet_core.parity.quantized import check_quantized, quantized_contract
from tunefleet_core.worker.aside import run_aside
from tunefleet_core.worker.format_export import FormatExport, format_export
from tunefleet_mlx.variants import Variant, find_variant

__all__ = ["STAGES", "export"]

STAGES = ("merge", "quantize", "check")
"""What an export does, in order."""

_WRITTEN = ("config.json", "model*.safetensors", "model.safetensors.index.json")
"""Of what mlx-lm leaves: the rest is the model's own, or a page for a model hub."""
_FILE_MODE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """An export under way, and the form it is to have."""

    run: FormatExport
    variant: Variant

    def aside(self, part: str, **task: object) -> dict[str, Any]:
        devices = self.run.context.order.device_ids
        kind = "metal" if any(not name.startswith("cpu") for name in devices) else "cpu"
        return run_aside(
            self.run.context, f"tunefleet_mlx.{part}", {**task, "device_kind": kind}, scratch=self.run.scratch
        )

    def measure(self, folder: Path) -> list[TopLogprobs]:
        prompts = [list(record.prompt_token_ids) for record in self.run.contract.numbers]
        return tops_from_json(self.aside("measuring", folder=str(folder), prompts=prompts)["numbers"])


def export(context: RunContext) -> RunOutput:
    """Run an export order.

    Raises:
        RunStopped: the run was asked to stop; nothing is kept.
        TunefleetError: BASE_INVALID, DISK_FULL, NUMBERS_MISMATCH, FIELD_INVALID.
    """
    resolved = context.order.resolved_spec
    variant = find_variant(resolved.spec.export.quantize.variant)
    with format_export(context, STAGES) as run:
        # A scale and a bias of 32 bits at most per group are included.
        run.require_disk(f"mlx/{variant.name}", resolved.base.parameter_count * (variant.bits + 1) // 8)
        _write(_Work(run=run, variant=variant))
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL)


def _write(work: _Work) -> None:
    run = work.run
    run.told(1)
    converted = run.scratch / "converted"
    work.aside("converting", source=str(run.source), target=str(converted), bits=work.variant.bits)
    _assemble(run, converted)
    run.told(2)
    before, after = work.measure(run.source), work.measure(run.folder)
    verdict = check_quantized(
        run.contract,
        before,
        after,
        form=f"mlx/{work.variant.name}",
        allowed=work.variant.tolerance,
        dtype=run.stored_dtype,
    )
    kept = quantized_contract(run.contract, after, quantization="mlx", dtype=run.stored_dtype)
    write_contract(kept, run.folder)
    size = sum(file.stat().st_size for file in run.folder.glob("*.safetensors"))
    run.context.notice(f"The weights take {size:,} bytes. {verdict.summary}", severity="info")


def _assemble(run: FormatExport, converted: Path) -> None:
    """Put together what was written and what the model has beside its weights."""
    for pattern in _WRITTEN:
        for file in converted.glob(pattern):
            file.rename(run.folder / file.name)
    run.copy_beside(but=("config.json",))
    for file in run.folder.iterdir():
        file.chmod(_FILE_MODE)
