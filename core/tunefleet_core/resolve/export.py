"""Resolve an export: a trained adapter, its base as it is now, and the disk the whole model takes."""

from __future__ import annotations

import math
from collections import Counter

from tunefleet.job.v1.resolved_pb2 import Estimate, ResolvedAdapter, ResolvedBackend, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve.defaults import Defaults, fill_common
from tunefleet_core.resolve.finish import ChosenBackend, Resolution, check_backend, digest_of
from tunefleet_core.resolve.notice import info
from tunefleet_core.spec import is_only_for_quantised

__all__ = [
    "BESIDE_WEIGHTS_BYTES",
    "own_dtype",
    "require_for_whole_base",
    "require_same_base",
    "resolve_export",
    "weights_bytes",
]

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BESIDE_WEIGHTS_BYTES = 1 << 20
"""Tokenizer, configs and the record, roughly."""


def resolve_export(
    spec: JobSpec,
    trained: ResolvedSpec,
    adapter: ResolvedAdapter,
    *,
    facts: BaseFacts,
    backend: ChosenBackend,
    disk_free_bytes: int = 0,
) -> Resolution:
    """Resolve an export job.

    Args:
        spec: A valid spec with `export`.
        trained: What the adapter was trained as.
        adapter: The adapter in the store.
        facts: Its base as it is now; empty for a backend that does not look at its base.
        backend: Who merges.
        disk_free_bytes: Free bytes where it will be written; 0: unknown.

    Raises:
        TunefleetError: BASE_INVALID if the base changed since, DISK_FULL with figures,
            CAPABILITY_UNSUPPORTED, FIELD_INVALID (options).
    """
    check_backend(spec, backend.manifest)
    require_for_whole_base(trained)
    require_same_base(trained.base, facts, verb="exported")
    resolved = ResolvedSpec(spec=spec)
    filled, defaults = resolved.spec, Defaults(resolved)
    fill_common(defaults, filled, backend=backend.manifest.name)
    if facts.tensors:
        defaults.fill("export.merge.dtype", own_dtype(facts), "the number type of the base's own weights")
    size = _size(filled, facts)
    if disk_free_bytes and disk_free_bytes < size:
        raise TunefleetError(
            Reason.DISK_FULL,
            f"The merged model takes {size:,} bytes, and the trainer's disk has {disk_free_bytes:,} free.",
            hint="Free space there, or choose a smaller number type in export.merge.dtype.",
            metadata={"needed_bytes": str(size), "free_bytes": str(disk_free_bytes)},
        )
    whole = ResolvedAdapter()
    whole.CopyFrom(adapter)
    whole.trained_with.CopyFrom(trained.spec.train)
    resolved.MergeFrom(
        ResolvedSpec(
            base=facts,
            chat_template=trained.chat_template,
            target_modules=trained.target_modules,
            data=trained.data,  # not read again: the whole model comes from them as the adapter did
            backend=ResolvedBackend(
                name=backend.manifest.name,
                plugin=backend.manifest.plugin,
                environment_digest=backend.environment_digest,
            ),
            estimate=_estimate(filled, facts),
            adapter=whole,
        )
    )
    notices = (info(f"The merged model takes about {size:,} bytes of disk."),) if size else ()
    return Resolution(spec=resolved, digest=digest_of(resolved), notices=notices)


def require_for_whole_base(trained: ResolvedSpec) -> None:
    """Refuse what cannot be merged: learned embeddings, and adapters for a quantised base alone.

    Raises:
        TunefleetError: FIELD_INVALID with how to train one that can be merged.
    """
    train = trained.spec.train
    if train.adapter.HasField("prompt_tuning"):
        raise TunefleetError.field(
            "export.model.model",
            "is a prompt of learned embeddings, which is no part of any weight: nothing can be merged",
            hint="Deploy it as it is, with the engine embedded, or train an adapter of the kind lora.",
        )
    if is_only_for_quantised(train):
        raise TunefleetError.field(
            "export.model.model",
            f"the adapter began with what {train.quantization} takes from the base, and was written for a "
            "base quantised so: in a whole base that would be there twice",
            hint="Train it again without train.intended_serving.precision, and export that.",
        )


def require_same_base(trained: BaseFacts, now: BaseFacts, *, verb: str) -> None:
    """Refuse a base that is no longer what an adapter was trained on.

    Raises:
        TunefleetError: BASE_INVALID naming what changed.
    """
    for what, before, after in (
        ("config or weights", trained.base_digest, now.base_digest),
        ("tokenizer", trained.tokenizer_digest, now.tokenizer_digest),
    ):
        if before != after:
            raise TunefleetError(
                Reason.BASE_INVALID,
                f"The base at {trained.path} changed since the adapter was trained: its {what}; "
                f"the adapter is not {verb}.",
                hint="Restore the base, or train the adapter again on what it is now.",
                metadata={"path": trained.path, "trained": before, "found": after},
            )


def own_dtype(facts: BaseFacts) -> str:
    """Return the number type that most of the base's numbers are stored in."""
    counts = Counter[str]()
    for tensor in facts.tensors:
        counts[tensor.dtype] += math.prod(tensor.shape)
    most = counts.most_common(1)
    return _DTYPES.get(most[0][0], "bfloat16") if most else "bfloat16"


def weights_bytes(facts: BaseFacts, dtype: str) -> int:
    """Return the bytes of a base's weights in `float32`, `bfloat16` or `float16`."""
    return facts.parameter_count * _BYTES[dtype]


def _size(spec: JobSpec, facts: BaseFacts) -> int:
    """Return the bytes of the whole model on disk; 0 if the base is not known."""
    if not facts.parameter_count:
        return 0
    return weights_bytes(facts, spec.export.merge.dtype) + BESIDE_WEIGHTS_BYTES


def _estimate(spec: JobSpec, facts: BaseFacts) -> Estimate:
    """Estimate the memory: the base once while it is merged, one layer more on the way."""
    if not facts.parameter_count:
        return Estimate()
    same = spec.export.merge.dtype == own_dtype(facts)
    weights = weights_bytes(facts, spec.export.merge.dtype if same else "float32")
    return Estimate(weights_bytes=weights, peak_bytes=weights)
