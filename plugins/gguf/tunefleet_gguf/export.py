"""An export run: whole weights to a GGUF file that answers as they do, or nothing.

Converted in the number type they are stored in, rounded by llama.cpp, loaded by llama.cpp,
each in a process of its own. Held to the record of training are: how texts are cut into
tokens, what ends an answer, and the log-probabilities, before and after rounding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import write_contract
from tunefleet_core.parity.measured_aside import tops_from_json
from tunefleet_core.parity.quantized import check_quantized, quantized_contract
from tunefleet_core.worker.aside import run_aside
from tunefleet_core.worker.format_export import FormatExport, format_export
from tunefleet_gguf.variants import Variant, find_variant

__all__ = ["STAGES", "export", "file_name"]

STAGES = ("merge", "convert", "quantize", "check")
"""What an export does, in order."""


def file_name(variant: str) -> str:
    """Return the name of the file of a variant; formats are recognised by it."""
    return f"model-{variant}.gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """An export under way, and the form it is to have."""

    run: FormatExport
    variant: Variant

    @property
    def threads(self) -> int:
        return self.run.context.order.threads or os.cpu_count() or 1

    def aside(self, part: str, **task: object) -> dict[str, Any]:
        return run_aside(self.run.context, f"tunefleet_gguf.{part}", task, scratch=self.run.scratch)

    def measure(self, path: Path, converted: Mapping[str, Any]) -> dict[str, Any]:
        return self.aside(
            "measuring",
            path=str(path),
            prompts=[list(record.prompt_token_ids) for record in self.run.contract.numbers],
            texts=converted["texts"],
            stops=list(self.run.contract.template.stop_token_ids),
            threads=self.threads,
        )


def export(context: RunContext) -> RunOutput:
    """Run an export order.

    Raises:
        RunStopped: the run was asked to stop; nothing is kept.
        TunefleetError: BASE_INVALID, DISK_FULL, TEMPLATE_MISMATCH, NUMBERS_MISMATCH, FIELD_INVALID.
    """
    variant = find_variant(context.order.resolved_spec.spec.export.quantize.variant)
    with format_export(context, STAGES) as run:
        run.require_disk(f"gguf/{variant.name}", _needed_bytes(run, variant))
        _write(_Work(run=run, variant=variant))
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_MODEL)


def _write(work: _Work) -> None:
    run = work.run
    whole, written = run.scratch / "whole.gguf", run.folder / file_name(work.variant.name)
    run.told(1)
    converted = _convert(work, whole)
    run.told(2)
    rounded = work.aside(
        "quantizing",
        source=str(whole),
        target=str(written),
        file_type=work.variant.file_type,
        threads=work.threads,
    )
    run.told(3)
    before = work.measure(whole, converted)
    whole.unlink()
    after = work.measure(written, converted)
    _require_tokens(converted, after)
    numbers = tops_from_json(after["numbers"])
    verdict = check_quantized(
        run.contract,
        tops_from_json(before["numbers"]),
        numbers,
        form=f"gguf/{work.variant.name}",
        allowed=work.variant.tolerance,
        dtype=run.stored_dtype,
    )
    run.copy_beside()
    kept = quantized_contract(run.contract, numbers, quantization="gguf", dtype="float16")
    write_contract(kept, run.folder)
    _tell_found(run.context, written, rounded, verdict.summary)
    _tell_stops(run.context, after["missed_stops"])


def _convert(work: _Work, target: Path) -> dict[str, Any]:
    spec = work.run.context.order.resolved_spec.spec
    options = spec.backend_options
    return work.aside(
        "converting",
        source=str(work.run.source),
        target=str(target),
        name=spec.export.model.model.rpartition("/")[2],
        pre_tokenizer=str(options["pre_tokenizer"]) if "pre_tokenizer" in options else "",
    )


def _tell_found(context: RunContext, written: Path, rounded: Mapping[str, Any], summary: str) -> None:
    types = ", ".join(f"{count} of {kind}" for kind, count in sorted(rounded["types"].items()))
    size = f"{written.stat().st_size:,} bytes, {rounded['bits_per_weight']:.2f} bits per weight"
    context.notice(f"{written.name} takes {size} (matrices: {types}). {summary}", severity="info")


def _tell_stops(context: RunContext, missed: list[int]) -> None:
    if missed:
        context.notice(
            f"llama.cpp does not end an answer at {', '.join(map(str, missed))}, as was trained.",
            hint="Send the text of these tokens as `stop` with every request.",
        )


def _require_tokens(converted: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Refuse a file that cuts a text into other tokens than the tokenizer it was trained with."""
    for text, ours, theirs in zip(
        converted["texts"], converted["token_ids"], measured["token_ids"], strict=True
    ):
        if ours == theirs:
            continue
        pairs = zip(ours, theirs, strict=False)
        place = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))
        name = converted["pre_tokenizer"]
        raise TunefleetError(
            Reason.TEMPLATE_MISMATCH,
            f"llama.cpp cuts a text into other tokens than the model was trained with: token {place} of "
            f"{text[:40]!r} is {theirs[place : place + 1]}, not {ours[place : place + 1]}"
            + (f"; the pre-tokenizer was taken for '{name}'." if name else "."),
            hint="Name another one in backend_options.pre_tokenizer, or export in another format.",
            metadata={"position": str(place), "pre_tokenizer": name},
        )


def _needed_bytes(run: FormatExport, variant: Variant) -> int:
    """Return what is on the disk at most: the model once more in its own type, and once rounded."""
    stored = sum(file.stat().st_size for file in run.source.glob("*.safetensors"))
    return stored + round(run.context.order.resolved_spec.base.parameter_count * variant.bits_per_weight / 8)
