"""Which capabilities a spec needs of the backend that runs it: the one list, for both ends.

Asked at submit, so that a person hears of it at once, and again where the work starts: a
coordinator of another version may know less.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.job.v1.spec_pb2 import JobSpec, TrainSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.adapter_inits import LOFTQ
from tunefleet_core.backend.choices import undeclared_choices
from tunefleet_core.backend.manifest import (
    has_capability,
    require_capability,
    trained_formats,
    training_scope,
)
from tunefleet_core.backend.scopes import manifest_for
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

__all__ = ["require_capabilities", "require_trainable_base"]

_BASE = "train.base.model"


class _Need(NamedTuple):
    """A capability, the field that asks for it (empty: the work itself), what to do without."""

    capability: Capability.ValueType
    field: str = ""
    instead: str = "Leave it out"


def require_capabilities(spec: JobSpec, manifest: BackendManifest) -> None:
    """Refuse a spec that a backend cannot run with the options that the spec gives it.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED naming the capability and the field that asks
            for it; FIELD_INVALID if the spec names no work, or an option that it has too few devices for.
    """
    manifest = manifest_for(spec, manifest)
    for need in _needs(spec):
        if not need.field:
            require_capability(manifest, need.capability)
        elif not has_capability(manifest, need.capability):
            word = Capability.Name(need.capability).removeprefix("CAPABILITY_")
            raise TunefleetError(
                Reason.CAPABILITY_UNSUPPORTED,
                f"{need.field}: the backend '{manifest.name}' does not have the capability {word}.",
                hint=f"{need.instead}, or choose a backend that has it: tunefleet plugins list",
                metadata={"backend": manifest.name, "capability": word, "field": need.field},
                violations=(FieldViolation(field=need.field, description=f"needs the capability {word}"),),
            )
    if spec.HasField("train"):
        _require_method(spec.train, manifest)
        _require_choices(spec.train, manifest)
    if spec.resources.devices > 1:
        _require_several_devices(spec, manifest)
    if spec.HasField("train") and spec.train.quantization:
        wanted = spec.train.quantization
        _require_format(wanted, manifest, field="train.quantization", what=f"asks for {wanted}")


def require_trainable_base(
    train: TrainSpec, facts: BaseFacts, manifest: BackendManifest, *, is_unpacked: bool = False
) -> None:
    """Refuse a base that is stored quantised unless the backend trains adapters on its format.

    Args:
        train: What is asked for.
        facts: The base.
        manifest: Who would train it.
        is_unpacked: Whether its format is unpacked into whole weights to train on it.

    Raises:
        TunefleetError: FIELD_INVALID for training it in full, quantising it again, or merging into it;
            CAPABILITY_UNSUPPORTED naming the format and the formats that the backend trains on, or
            the types and carriers of it that it does.
    """
    if not facts.HasField("quantization"):
        return
    stored = facts.quantization
    base = facts.model or facts.path
    name = stored.format or f"a format that no plugin knows ({stored.carrier})"
    if train.adapter.WhichOneof("adapter") is None:
        raise TunefleetError.field(
            "train.adapter",
            f"'{base}' is stored in {name}: its weights cannot be trained in full, only an adapter on them",
            hint="Add adapter: {lora: {}}, or name the base that it was quantised from.",
        )
    if train.adapter.lora.init == LOFTQ:
        raise TunefleetError.field(
            "train.adapter.lora.init",
            f"'{base}' is stored in {name}: what quantising took from it cannot be read from its files",
            hint="Leave the init out, or name the base that it was quantised from.",
        )
    if train.quantization and train.quantization != stored.format:
        raise TunefleetError.field(
            "train.quantization",
            f"'{base}' is stored in {name} already and cannot be quantised to {train.quantization}",
            hint="Leave the quantisation out, or name the base that it was quantised from.",
        )
    if train.merge and not is_unpacked:
        raise TunefleetError.field(
            "train.merge",
            f"'{base}' is stored in {name}, and nothing can be merged into that",
            hint="Leave it out and serve the adapter, or name the base that it was quantised from.",
        )
    _require_format(stored.format, manifest, field=_BASE, what=f"'{base}' is stored in {name}")
    _require_scope(facts, manifest, what=f"'{base}' is stored in {name}")


def _require_method(train: TrainSpec, manifest: BackendManifest) -> None:
    method = train.method.WhichOneof("method") or "sft"
    if method == "sft" or method in manifest.methods:
        return
    known = list(manifest.methods)
    if has_capability(manifest, Capability.CAPABILITY_SFT):
        known.insert(0, "sft")
    field, does = f"train.method.{method}", f"it knows {', '.join(known)}" if known else "it knows no method"
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"{field}: the backend '{manifest.name}' does not train by {method}; {does}.",
        hint="Use another method, or choose a backend that has it: tunefleet plugins list",
        metadata={"backend": manifest.name, "capability": "METHODS", "field": field, "method": method},
        violations=(FieldViolation(field=field, description=f"needs a backend that trains by {method}"),),
    )


def _require_choices(train: TrainSpec, manifest: BackendManifest) -> None:
    for field, value, known in undeclared_choices(train, manifest):
        word = field.rpartition(".")[2].upper()
        raise TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED,
            f"{field}: the backend '{manifest.name}' does not train with {value}; "
            f"it takes {', '.join(known) or 'none'}.",
            hint="Leave it out, or choose a backend that has it: tunefleet plugins list",
            metadata={"backend": manifest.name, "capability": word, "field": field, "value": value},
            violations=(FieldViolation(field=field, description=f"needs a backend that takes {value}"),),
        )


def _require_several_devices(spec: JobSpec, manifest: BackendManifest) -> None:
    work = spec.WhichOneof("work") or ""
    method = spec.train.method.WhichOneof("method") or "sft"
    if work == "train" and method in manifest.distributed_methods:
        return
    known = ", ".join(manifest.distributed_methods)
    field, what = "resources.devices", f"training by {method}" if work == "train" else f"the work '{work}'"
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"{field}: the backend '{manifest.name}' does {what} on one device; "
        + (f"on several it trains by {known}." if known else "it uses several for nothing."),
        hint="Set resources.devices to 1, or choose a backend that spreads this: tunefleet plugins list",
        metadata={"backend": manifest.name, "capability": "DISTRIBUTED_METHODS", "field": field},
        violations=(FieldViolation(field=field, description="needs a backend that spreads this work"),),
    )


def _require_format(wanted: str, manifest: BackendManifest, *, field: str, what: str) -> None:
    known = trained_formats(manifest)
    if wanted in known:
        return
    word = "QLORA_NF4" if wanted == "nf4" else "TRAINED_FORMATS"
    does = f"it trains on {', '.join(known)}" if known else "it trains on no quantised base"
    base = field == _BASE
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"{field}: {what}, which the backend '{manifest.name}' does not train on; {does}.",
        hint=("Name the base that it was quantised from" if base else "Leave it out")
        + ", or choose a backend that trains on it: tunefleet catalog formats",
        metadata={"backend": manifest.name, "capability": word, "field": field, "format": wanted},
        violations=(FieldViolation(field=field, description=f"needs a backend that trains on {wanted}"),),
    )


def _require_scope(facts: BaseFacts, manifest: BackendManifest, *, what: str) -> None:
    """Refuse a base whose type, or whose carrier of the format, the backend does not train on."""
    stored, scope = facts.quantization, training_scope(manifest, facts.quantization.format)
    if scope.model_types and facts.model_type not in scope.model_types:
        what += f" and of the type '{facts.model_type}'"
        does = f"for the type {' or '.join(scope.model_types)}"
    elif scope.carriers and stored.carrier not in scope.carriers:
        what += f", carried by {stored.carrier or 'nothing known'}"
        does = f"carried by {' or '.join(scope.carriers)}"
    else:
        return
    raise TunefleetError(
        Reason.CAPABILITY_UNSUPPORTED,
        f"{_BASE}: {what}; the backend '{manifest.name}' trains on {stored.format} only {does}.",
        hint="Name the base that it was quantised from, or choose a backend that trains on it: "
        "tunefleet catalog formats",
        metadata={
            "backend": manifest.name,
            "capability": "TRAINED_FORMATS",
            "field": _BASE,
            "format": stored.format,
        },
        violations=(FieldViolation(field=_BASE, description=f"needs a backend that trains on it: {what}"),),
    )


@cache
def _need(capability: str, field: str = "", *, instead: str = "Leave it out") -> _Need:
    """Return a need by the capability's word. They are few, and asked of every job several times."""
    return _Need(Capability.Value(f"CAPABILITY_{capability}"), field, instead)


def _needs(spec: JobSpec) -> Iterator[_Need]:
    match spec.WhichOneof("work"):
        case "train":
            yield _need("TRAIN")
            yield from _training(spec.train)
        case "evaluate":
            yield _need("EVALUATE")
        case "export" if spec.export.HasField("quantize"):
            yield _need("QUANTIZE", "export.quantize")
        case "export":
            yield _need("MERGE")
        case _:
            raise TunefleetError.field("spec.work", "one of train, evaluate, export must be given")


def _training(train: TrainSpec) -> Iterator[_Need]:
    if train.HasField("samples"):
        yield _need("SAMPLES", "train.samples")
    if train.divergence.max_rollbacks > 0:
        yield _need("ROLLBACK", "train.divergence.max_rollbacks")
    if train.data.general:
        yield _need("GENERAL_SET", "train.data.general")
    if train.early_stop.patience > 0:
        yield _need("BEST_CHECKPOINT", "train.early_stop")
    if train.checkpoint.best_by not in ("", "none"):
        yield _need("BEST_CHECKPOINT", "train.checkpoint.best_by")
    if train.checkpoint.HasField("every_minutes"):
        yield _need("TIMED_CHECKPOINTS", "train.checkpoint.every_minutes")
    if train.method.WhichOneof("method") in ("sft", None):  # supervised unless another one is named
        yield _need("SFT", "train.method", instead="Use another method")
    if train.adapter.WhichOneof("adapter") is None:
        yield _need(
            "FULL_FINE_TUNING",
            "train.adapter",
            instead="Add adapter: {lora: {}}",
        )
        return
    if train.adapter.HasField("prompt_tuning"):
        yield _need("PROMPT_TUNING", "train.adapter.prompt_tuning", instead="Use adapter: {lora: {}}")
        return
    yield _need("LORA", "train.adapter.lora", instead="Leave the adapter out")
    if train.adapter.lora.rslora:
        yield _need("RSLORA", "train.adapter.lora.rslora")
    if train.adapter.lora.dora:
        yield _need("DORA", "train.adapter.lora.dora")
    if train.adapter.lora.experts:
        yield _need("EXPERT_LORA", "train.adapter.lora.experts")
    if train.merge:
        yield _need("MERGE", "train.merge")
