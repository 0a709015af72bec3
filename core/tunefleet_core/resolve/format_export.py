"""Resolve an export in a quantisation format: what is written, from which rows, and the disk it takes."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tunefleet.job.v1.resolved_pb2 import Estimate, ResolvedAdapter, ResolvedBackend, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog import Format
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve.defaults import Defaults, fill_common
from tunefleet_core.resolve.export import (
    BESIDE_WEIGHTS_BYTES,
    own_dtype,
    require_for_whole_base,
    require_same_base,
    weights_bytes,
)
from tunefleet_core.resolve.finish import ChosenBackend, Resolution, check_backend, digest_of
from tunefleet_core.resolve.notice import info
from tunefleet_core.spec.nearest import did_you_mean

__all__ = ["FormatExport", "resolve_format_export"]

_CALIBRATION_ROWS = 128
_MOST_BITS = 16.0
"""Of a format that no plugin describes: none of those that are written takes more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatExport:
    """What is exported.

    Attributes:
        trained: What the model was trained as, or exported as.
        adapter: The adapter in the store; None for a whole model.
        facts: Its base, or the whole model itself, as it is now; empty if its backend does not look at bases.
        quantization: The format; None if no format plugin brings it.
    """

    trained: ResolvedSpec
    adapter: ResolvedAdapter | None
    facts: BaseFacts
    quantization: Format | None


def resolve_format_export(
    spec: JobSpec,
    what: FormatExport,
    *,
    backend: ChosenBackend,
    merge_backend: ChosenBackend | None = None,
    disk_free_bytes: int = 0,
) -> Resolution:
    """Resolve an export with `quantize`.

    Args:
        spec: A valid spec with `export.quantize`.
        what: The model and its format.
        backend: Who writes the format.
        merge_backend: Who merges an adapter first; None if there is nothing to merge.
        disk_free_bytes: Free bytes where it will be written; 0: unknown.

    Raises:
        TunefleetError: BASE_INVALID if the base changed since or is quantised already, DISK_FULL
            with figures, CAPABILITY_UNSUPPORTED, FIELD_INVALID (format, variant, options).
    """
    check_backend(spec, backend.manifest)
    _require_format(spec, backend)
    if what.adapter is not None:
        require_for_whole_base(what.trained)
        require_same_base(what.trained.base, what.facts, verb="exported")
    _require_whole_numbers(spec, what)
    resolved = ResolvedSpec(spec=spec)
    filled, defaults = resolved.spec, Defaults(resolved)
    fill_common(defaults, filled, backend=backend.manifest.name)
    _fill(defaults, filled, what)
    size = _size(filled, what)
    merged = weights_bytes(what.facts, own_dtype(what.facts)) if merge_backend is not None and size else 0
    _require_disk(filled, size, merged, free=disk_free_bytes)
    resolved.MergeFrom(
        ResolvedSpec(
            base=what.facts,
            chat_template=what.trained.chat_template,
            target_modules=what.trained.target_modules,
            data=what.trained.data,  # its training rows calibrate, and say where the weights come from
            backend=_resolved(backend),
            estimate=_estimate(what.facts),
            adapter=_with_training(what),
            merge_backend=None if merge_backend is None else _resolved(merge_backend),
        )
    )
    text = f"The model in {filled.export.quantize.format} takes about {size:,} bytes of disk"
    more = f", and {merged:,} more while it is made." if merged else "."
    notices = (info(text + more),) if size else ()
    return Resolution(spec=resolved, digest=digest_of(resolved), notices=notices)


def _require_format(spec: JobSpec, backend: ChosenBackend) -> None:
    asked, writes = spec.export.quantize.format, list(backend.manifest.exported_formats)
    if asked not in writes:
        raise TunefleetError.field(
            "export.quantize.format",
            f"the backend '{backend.manifest.name}' does not write '{asked}'{did_you_mean(asked, writes)}",
            hint=f"It writes {', '.join(writes) or 'none'}. tunefleet catalog formats",
        )


def _require_whole_numbers(spec: JobSpec, what: FormatExport) -> None:
    """Refuse weights that are quantised already: rounding twice costs twice.

    An adapter that was trained on such a base is written back in the format of that base:
    what the adapter did not change rounds to the same numbers.
    """
    facts = what.facts
    if what.adapter is not None and facts.quantization.format == spec.export.quantize.format:
        return
    is_quantized = bool(facts.config_json) and "quantization_config" in json.loads(facts.config_json)
    if is_quantized or facts.HasField("quantization"):
        name = facts.quantization.format
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"'{spec.export.model.model}' is stored quantised already{f' as {name}' if name else ''}; "
            "it is not quantised again.",
            hint="Export the model that it was made from.",
            metadata={"model": spec.export.model.model, "format": name},
        )


def _fill(defaults: Defaults, spec: JobSpec, what: FormatExport) -> None:
    if what.quantization is not None:
        names = [variant.name for variant in what.quantization.variants if variant.name]
        asked = spec.export.quantize.variant
        if asked and asked not in names:
            raise TunefleetError.field(
                "export.quantize.variant",
                f"'{asked}' is no variant of {what.quantization.name}{did_you_mean(asked, names)}",
                hint=f"Known are {', '.join(names)}." if names else "Leave it out: there is one form only.",
            )
        if names:
            usual = f"the usual form of {what.quantization.name}"
            defaults.fill("export.quantize.variant", names[0], usual)
    rows = sum(data.rows for data in what.trained.data if data.role == "train")
    many, why = _CALIBRATION_ROWS, "enough to see the range of the activations; more change little"
    if 0 < rows < many:
        many, why = rows, "all the training rows there are"
    defaults.fill("export.quantize.calibration_rows", many, why)


def _size(spec: JobSpec, what: FormatExport) -> int:
    """Return the bytes of the result on disk, roughly; 0 if the base is not known."""
    if not what.facts.parameter_count:
        return 0
    bits = _MOST_BITS
    if what.quantization is not None:
        chosen = [item for item in what.quantization.variants if item.name == spec.export.quantize.variant]
        bits = (chosen or what.quantization.variants)[0].bits_per_weight
    return round(what.facts.parameter_count * bits / 8) + BESIDE_WEIGHTS_BYTES


def _require_disk(spec: JobSpec, size: int, merged: int, *, free: int) -> None:
    need = size + merged
    if free and free < need:
        form = spec.export.quantize.format
        more = f", and the merged one before it {merged:,}" if merged else ""
        raise TunefleetError(
            Reason.DISK_FULL,
            f"The model in {form} takes {size:,} bytes{more}; the trainer's disk has {free:,} free.",
            hint="Free space there, or choose a format of fewer bits: tunefleet catalog formats",
            metadata={"needed_bytes": str(need), "free_bytes": str(free)},
        )


def _with_training(what: FormatExport) -> ResolvedAdapter | None:
    if what.adapter is None:
        return None
    adapter = ResolvedAdapter()
    adapter.CopyFrom(what.adapter)
    adapter.trained_with.CopyFrom(what.trained.spec.train)
    return adapter


def _resolved(backend: ChosenBackend) -> ResolvedBackend:
    return ResolvedBackend(
        name=backend.manifest.name,
        plugin=backend.manifest.plugin,
        environment_digest=backend.environment_digest,
    )


def _estimate(facts: BaseFacts) -> Estimate:
    """Estimate the memory: the whole weights once; calibration goes layer by layer."""
    if not facts.parameter_count:
        return Estimate()
    weights = weights_bytes(facts, own_dtype(facts))
    return Estimate(weights_bytes=weights, peak_bytes=weights)
