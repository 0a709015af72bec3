"""An export run: whole weights to a GGUF file that answers as they do, or nothing.

Converted in the number type they are stored in, rounded by llama.cpp, loaded by llama.cpp,
each in a process of its own. Held to the record of training are: how texts are cut into
tokens, what ends an answer, and the log-probabilities, before and after rounding.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet_core.backend import RunContext
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import (
    CONTRACT_FILE,
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
from tunefleet_gguf.variants import Variant, find_variant

__all__ = ["STAGES", "export", "file_name"]

STAGES = ("merge", "convert", "quantize", "check")
"""What an export does, in order."""

_WEIGHTS = (".safetensors", ".safetensors.index.json")


def file_name(variant: str) -> str:
    """Return the name of the file of a variant; formats are recognised by it."""
    return f"model-{variant}.gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """An export under way."""

    context: RunContext
    variant: Variant
    source: Path
    contract: TrainServeContract
    scratch: Path

    @property
    def threads(self) -> int:
        return self.context.order.threads or os.cpu_count() or 1

    @property
    def stored_dtype(self) -> str:
        """Number type of the whole weights: llama.cpp computes in it, whatever training computed in."""
        return own_dtype(self.context.order.resolved_spec.base)

    def aside(self, part: str, **task: object) -> dict[str, Any]:
        return run_aside(self.context, f"tunefleet_gguf.{part}", task, scratch=self.scratch)

    def measure(self, path: Path, converted: Mapping[str, Any]) -> dict[str, Any]:
        return self.aside(
            "measuring",
            path=str(path),
            prompts=[list(record.prompt_token_ids) for record in self.contract.numbers],
            texts=converted["texts"],
            stops=list(self.contract.template.stop_token_ids),
            threads=self.threads,
        )


def export(context: RunContext) -> RunOutput:
    """Run an export order.

    Raises:
        RunStopped: the run was asked to stop; nothing is kept.
        TunefleetError: BASE_INVALID, DISK_FULL, TEMPLATE_MISMATCH, NUMBERS_MISMATCH, FIELD_INVALID.
    """
    variant = find_variant(context.order.resolved_spec.spec.export.quantize.variant)
    work_dir = Path(context.order.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    told = stage_teller(context, STAGES)
    told(0)
    with (
        whole_weights(context) as source,
        tempfile.TemporaryDirectory(dir=work_dir, prefix="gguf-") as scratch,
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
    whole, written = work.scratch / "whole.gguf", folder / file_name(work.variant.name)
    told(1)
    converted = _convert(work, whole)
    told(2)
    rounded = work.aside(
        "quantizing",
        source=str(whole),
        target=str(written),
        file_type=work.variant.file_type,
        threads=work.threads,
    )
    told(3)
    before = work.measure(whole, converted)
    whole.unlink()
    after = work.measure(written, converted)
    _require_tokens(converted, after)
    numbers = tops_from_json(after["numbers"])
    verdict = check_quantized(
        work.contract,
        tops_from_json(before["numbers"]),
        numbers,
        form=f"gguf/{work.variant.name}",
        allowed=work.variant.tolerance,
        dtype=work.stored_dtype,
    )
    _copy_beside(work.source, folder)
    kept = quantized_contract(work.contract, numbers, quantization="gguf", dtype="float16")
    write_contract(kept, folder)
    _tell_found(work.context, written, rounded, verdict.summary)
    _tell_stops(work.context, after["missed_stops"])


def _convert(work: _Work, target: Path) -> dict[str, Any]:
    spec = work.context.order.resolved_spec.spec
    options = spec.backend_options
    return work.aside(
        "converting",
        source=str(work.source),
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


def _copy_beside(source: Path, folder: Path) -> None:
    """Keep what engines and people look for beside the weights: config, tokenizer, template."""
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name != CONTRACT_FILE:
            shutil.copyfile(file, folder / file.name)


def _require_disk(work: _Work) -> None:
    """Refuse early: the model is there once more in its own type and once rounded."""
    stored = sum(file.stat().st_size for file in work.source.glob("*.safetensors"))
    count = work.context.order.resolved_spec.base.parameter_count
    need = stored + round(count * work.variant.bits_per_weight / 8)
    free = shutil.disk_usage(work.scratch).free
    if free < need:
        raise TunefleetError(
            Reason.DISK_FULL,
            f"Writing this model as gguf/{work.variant.name} takes {need:,} bytes on the way; "
            f"the disk at {work.scratch.parent} has {free:,} free.",
            hint="Free space on this disk, then export again.",
            metadata={"needed_bytes": str(need), "free_bytes": str(free)},
        )
