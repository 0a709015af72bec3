"""Second half of resolving: the immutable spec that runs, with every default filled in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.backend.v1.inspect_pb2 import AuditResult
from tunefleet.job.v1.event_pb2 import Notice
from tunefleet.job.v1.resolved_pb2 import (
    Estimate,
    ResolvedAdapter,
    ResolvedBackend,
    ResolvedSpec,
)
from tunefleet.job.v1.spec_pb2 import JobSpec, TrainSpec
from tunefleet_core.backend import (
    MemoryLayout,
    choice_values,
    manifest_for,
    memory_layout,
    require_capabilities,
    require_trainable_base,
    trained_formats,
)
from tunefleet_core.catalog import FormatRegistry
from tunefleet_core.errors import TunefleetError
from tunefleet_core.resolve.audited import (
    combine_masks,
    decide_length,
    files_of,
    mask_notices,
    require_matching_template,
    require_trained_tokens,
)
from tunefleet_core.resolve.companions import companions_of, require_same_template
from tunefleet_core.resolve.defaults import (
    Defaults,
    distill,
    fill_checkpointing,
    fill_common,
    fill_evaluate,
    fill_life,
    fill_optimizer,
    fill_quantization,
    fill_train,
    fill_warmup,
    online,
)
from tunefleet_core.resolve.draft import Draft
from tunefleet_core.resolve.estimate import estimate_evaluate, estimate_train, steps_of
from tunefleet_core.resolve.lint import lint
from tunefleet_core.resolve.mixture import mixture_notices, resolved_data, rows_of
from tunefleet_core.resolve.notice import stop_notices, validation_notices
from tunefleet_core.resolve.options import check_backend_options
from tunefleet_core.resolve.packed import count_sequences, packing_notices, require_packable
from tunefleet_core.resolve.recipe import Recipe
from tunefleet_core.resolve.servable import require_base_servable, require_servable, serving_notices

__all__ = [
    "ChosenBackend",
    "Resolution",
    "check_backend",
    "digest_of",
    "finish_evaluate",
    "finish_train",
    "resolve_plain",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenBackend:
    """The backend that will run a job, where it lives, and the kind of device it gets.

    An empty `device_kind` is the backend's only one, or else `cpu`; `memory_bytes` is that of
    the device, 0 if unknown.
    """

    manifest: BackendManifest
    environment_digest: str = ""
    device_kind: str = ""
    memory_bytes: int = 0

    @property
    def device(self) -> str:
        """The kind of device to decide number types by."""
        kinds = self.manifest.device_kinds
        return self.device_kind or (kinds[0] if len(kinds) == 1 else "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What runs, its digest, and what a person should know before it does."""

    spec: ResolvedSpec
    digest: str
    notices: tuple[Notice, ...]


def finish_train(
    draft: Draft, audit: AuditResult, backend: ChosenBackend, formats: FormatRegistry | None = None
) -> Resolution:
    """Resolve a training job.

    Args:
        draft: What was drafted of it.
        audit: What was found of its rows.
        backend: Who will train it.
        formats: The quantisation formats, whose sizes the estimate takes.

    Raises:
        TunefleetError: TEMPLATE_MISMATCH, NO_TRAINED_TOKEN, DATA_INVALID (too many rows
            too long), FIELD_INVALID (options, lengths), CAPABILITY_UNSUPPORTED.
    """
    check_backend(draft.spec, backend.manifest)
    stored = formats.get(draft.facts.quantization.format) if formats else None
    require_trainable_base(
        draft.spec.train,
        draft.facts,
        manifest_for(draft.spec, backend.manifest),
        is_unpacked=stored is not None and stored.is_unpacked_to_train,
    )
    require_base_servable(draft.spec, backend.manifest, draft.facts, draft.family)
    require_packable(draft.spec.train, draft.facts)
    require_matching_template(audit, draft.template)
    scoring = [wanted.field for wanted in companions_of(draft.spec.train) if wanted.scores]
    require_same_template(draft.companions, scoring, draft.template)
    files = files_of(draft.audit_order, audit, "train")
    mask = combine_masks(files)
    writes_itself = draft.audit_order.method in (*online.METHODS, distill.METHOD)
    if not writes_itself:  # else the model, or its teacher, writes what is trained
        require_trained_tokens(mask, loss_on=draft.audit_order.loss_on)
    resolved, defaults = _start(draft.spec, backend, draft)
    spec, train = resolved.spec, resolved.spec.train
    # Learned embeddings take positions before every row.
    positions = max(0, draft.facts.max_positions - train.adapter.prompt_tuning.num_virtual_tokens)
    length = decide_length(
        mask, max_length=train.max_length, over_long=train.over_long, max_positions=positions
    )
    defaults.fill("train.max_length", length.max_length, length.max_length_reason)
    defaults.fill("train.over_long", length.over_long, length.over_long_reason)
    pairs = zip(train.data.train, files, strict=True)
    rows = sum(rows_of(source, file.mask.rows) for source, file in pairs) - length.dropped_rows
    sequences = count_sequences(train, mask, rows=rows)
    total_steps = steps_of(train, rows=sequences or rows)
    _require_prompts(draft, train, rows)
    fill_warmup(defaults, train, total_steps)
    fill_life(defaults, train, backend.manifest, total_steps=total_steps)
    layout = memory_layout(spec, backend.manifest, device_kind=backend.device)
    _fill_quantization(defaults, train, draft, backend, formats=formats, layout=layout)
    fill_optimizer(
        defaults,
        train,
        taken=choice_values(backend.manifest, "train.optim.optimizer"),
        memory_bytes=backend.memory_bytes,
        peak_bytes=lambda: _estimate(train, draft, total_steps=1, formats=formats, layout=layout).peak_bytes,
    )
    validation = files_of(draft.audit_order, audit, "validation")
    return _resolution(
        resolved,
        ResolvedSpec(
            base=draft.facts,
            chat_template=draft.template,
            target_modules=draft.target_modules,
            target_parameters=draft.target_parameters,
            data=resolved_data(spec, audit),
            mask_audit=mask,
            backend=_backend(backend),
            estimate=_estimate(
                train,
                draft,
                total_steps=total_steps,
                packed_sequences=sequences,
                formats=formats,
                layout=layout,
            ),
            companions=draft.companions,
        ),
        [
            *draft.notices,
            *lint(Recipe.of(spec, facts=draft.facts, mask=mask)),
            *serving_notices(spec),
            *mask_notices(mask),
            *length.notices,
            *mixture_notices(train, files),
            *packing_notices(train, rows=rows, sequences=sequences),
            *validation_notices(() if writes_itself else validation),
            *stop_notices(draft.template.stop_token_ids),
        ],
    )


def finish_evaluate(draft: Draft, audit: AuditResult, backend: ChosenBackend) -> Resolution:
    """Resolve an evaluation.

    Raises:
        TunefleetError: TEMPLATE_MISMATCH, FIELD_INVALID (options), CAPABILITY_UNSUPPORTED.
    """
    check_backend(draft.spec, backend.manifest)
    require_matching_template(audit, draft.template)
    mask = combine_masks(files_of(draft.audit_order, audit, "evaluate"))
    resolved, _ = _start(draft.spec, backend, draft)
    return _resolution(
        resolved,
        ResolvedSpec(
            base=draft.facts,
            chat_template=draft.template,
            data=resolved_data(resolved.spec, audit),
            mask_audit=mask,
            backend=_backend(backend),
            estimate=estimate_evaluate(draft.facts, rows=mask.rows),
            adapter=draft.adapter,
        ),
        [*draft.notices, *stop_notices(draft.template.stop_token_ids)],
    )


def resolve_plain(
    spec: JobSpec, backend: ChosenBackend, *, adapter: ResolvedAdapter | None = None
) -> Resolution:
    """Resolve a job for a backend that cannot inspect: defaults only, nothing is read.

    Args:
        spec: A spec that has passed `check_backend`.
        backend: Who will run it.
        adapter: The adapter to score, for `evaluate`.
    """
    resolved, defaults = _start(spec, backend, None)
    filled = resolved.spec
    notices: list[Notice] = []
    estimate = Estimate()
    if filled.HasField("train"):
        estimate.total_steps = filled.train.optim.max_steps
        fill_warmup(defaults, filled.train, estimate.total_steps)
        fill_optimizer(defaults, filled.train)
        fill_life(defaults, filled.train, backend.manifest, total_steps=estimate.total_steps)
        notices += lint(Recipe.of(filled))
    return _resolution(
        resolved,
        ResolvedSpec(
            data=resolved_data(filled, AuditResult()),
            backend=_backend(backend),
            estimate=estimate,
            adapter=adapter,
        ),
        notices,
    )


def check_backend(spec: JobSpec, manifest: BackendManifest) -> None:
    """Refuse a job that a backend does not do, that no engine could serve, or with wrong options.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED, FIELD_INVALID.
    """
    require_capabilities(spec, manifest)
    if spec.HasField("train"):
        require_servable(spec, manifest)
    check_backend_options(spec, manifest)


def digest_of(resolved: ResolvedSpec) -> str:
    """Return the digest of a resolved spec: SHA-256 over its deterministic bytes, hex.

    What a person is told is not part of it: other words are no other work.
    """
    if resolved.notices:
        silent = ResolvedSpec()
        silent.CopyFrom(resolved)
        silent.ClearField("notices")
        resolved = silent
    return hashlib.sha256(resolved.SerializeToString(deterministic=True)).hexdigest()


def _start(spec: JobSpec, backend: ChosenBackend, draft: Draft | None) -> tuple[ResolvedSpec, Defaults]:
    """Copy a spec and fill what does not depend on its rows."""
    resolved = ResolvedSpec(spec=spec)
    filled = resolved.spec
    defaults = Defaults(resolved, draft.family if draft else None)
    fill_common(defaults, filled, backend=backend.manifest.name)
    if filled.HasField("train"):
        fill_train(
            defaults,
            filled,
            parameters=draft.facts.parameter_count if draft else 0,
            device_kind=backend.device,
            has_validation=bool(filled.train.data.validation),
        )
        fill_checkpointing(defaults, filled.train, backend.manifest, device_kind=backend.device)
    else:
        fill_evaluate(defaults, filled)
    if draft and draft.facts.commit and draft.adapter is None:  # an adapter has no Hub revision
        _pin_revision(filled, draft.facts.commit, defaults)
    return resolved, defaults


def _pin_revision(spec: JobSpec, commit: str, defaults: Defaults) -> None:
    field, base = (
        ("train.base", spec.train.base) if spec.HasField("train") else ("evaluate.model", spec.evaluate.model)
    )
    if base.revision != commit:
        asked = base.revision or "main"
        base.revision = commit
        defaults.note(f"{field}.revision", commit, f"the commit that '{asked}' was when this was resolved")


def _backend(backend: ChosenBackend) -> ResolvedBackend:
    return ResolvedBackend(
        name=backend.manifest.name,
        plugin=backend.manifest.plugin,
        environment_digest=backend.environment_digest,
    )


def _require_prompts(draft: Draft, train: TrainSpec, rows: int) -> None:
    """Refuse steps that want more prompts than there are: the trainer makes no step of a part."""
    if draft.audit_order.method in online.METHODS and rows < train.optim.batch_size:
        raise TunefleetError.field(
            "train.optim.batch_size",
            f"is {train.optim.batch_size}, more than the {rows} prompts there are",
            hint=f"Set it to {rows} or less, or add prompts.",
        )


def _estimate(
    train: TrainSpec,
    draft: Draft,
    *,
    total_steps: int,
    packed_sequences: int = 0,
    formats: FormatRegistry | None,
    layout: MemoryLayout,
) -> Estimate:
    return estimate_train(
        train,
        draft.facts,
        draft.target_modules,
        total_steps=total_steps,
        packed_sequences=packed_sequences,
        target_parameters=draft.target_parameters,
        formats=formats,
        companions=draft.companions,
        layout=layout,
    )


def _fill_quantization(
    defaults: Defaults,
    train: TrainSpec,
    draft: Draft,
    backend: ChosenBackend,
    *,
    formats: FormatRegistry | None,
    layout: MemoryLayout,
) -> None:
    if draft.facts.quantization.format:
        return  # the base brings a format of its own
    fill_quantization(
        defaults,
        train,
        trainable=trained_formats(backend.manifest),
        memory_bytes=backend.memory_bytes,
        peak_bytes=lambda: _estimate(train, draft, total_steps=1, formats=formats, layout=layout).peak_bytes,
    )


def _resolution(started: ResolvedSpec, rest: ResolvedSpec, notices: Iterable[Notice]) -> Resolution:
    """Complete what `_start` began with all but its spec and values."""
    told = tuple(notices)
    started.MergeFrom(rest)
    digest = digest_of(started)
    started.notices.extend(told)
    return Resolution(spec=started, digest=digest, notices=told)
