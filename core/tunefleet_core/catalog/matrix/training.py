"""Whether a backend trains a combination: asked of the rules that refuse it at submit.

There is no list here. A spec is written for the combination and put before the rules of
specs, the needs of backends and the family, so that what the matrix shows and what a
submit refuses cannot differ.
"""

from __future__ import annotations

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.job.v1.spec_pb2 import JobSpec, Method
from tunefleet_core.backend import method_limit, require_capabilities, trained_formats, training_scope
from tunefleet_core.catalog.family import Family
from tunefleet_core.catalog.matrix.adapters import ADAPTATIONS, PROMPT
from tunefleet_core.catalog.matrix.standing import Standing, Verdict
from tunefleet_core.errors import TunefleetError
from tunefleet_core.spec.rules import QUANTIZATIONS, find_violations

__all__ = ["METHODS", "judge_training", "spec_of", "trained_formats"]

METHODS = tuple(field.name for field in Method.DESCRIPTOR.fields)
"""Training methods that a spec can name."""


def spec_of(method: str, adaptation: str, quantization: str) -> JobSpec:
    """Return the smallest valid spec of a combination. Formats that a base brings are not named in one."""
    spec = JobSpec(name="matrix")
    train = spec.train
    train.base.model = "base"
    train.data.train.add(source="rows.jsonl")
    options = getattr(train.method, method)
    options.SetInParent()
    if "rewards" in options.DESCRIPTOR.fields_by_name:  # a job has to name what is paid for
        options.rewards.add(name="exact_match")
    if "teacher" in options.DESCRIPTOR.fields_by_name:  # and who teaches
        options.teacher.model.model = "base"
    if adaptation == PROMPT:
        train.adapter.prompt_tuning.SetInParent()
    elif adaptation != ADAPTATIONS[0]:
        lora = train.adapter.lora
        lora.SetInParent()
        lora.rslora = adaptation == "rslora"
        lora.dora = adaptation == "dora"
        lora.experts = adaptation == "expert_lora"
    if quantization in QUANTIZATIONS:
        train.quantization = quantization
    return spec


def judge_training(
    manifest: BackendManifest, method: str, adaptation: str, quantization: str, family: Family | None
) -> Verdict:
    """Return whether a backend trains a combination, whatever serves it."""
    spec = spec_of(method, adaptation, quantization)
    if quantization and adaptation == ADAPTATIONS[0]:  # of a quantised base no field of a spec tells
        return _no("quantised weights cannot be trained in full, only an adapter on them", "train.adapter")
    for violation in find_violations(spec):
        return _no(violation.description, violation.field)
    try:
        require_capabilities(spec, manifest)
    except TunefleetError as error:
        field = error.violations[0].field if error.violations else ""
        lacks = error.metadata.get("capability", "what it needs")
        is_format = field == "train.quantization"
        without = "does not train on this format" if is_format else f"does not have {lacks}"
        return _no(f"the backend '{manifest.name}' {without}", field)
    if quantization and quantization not in trained_formats(manifest):
        return _no(f"the backend '{manifest.name}' does not train on this format", "train.quantization")
    if family is not None and (why := method_limit(manifest, method, family.model_types)):
        return _no(f"the backend '{manifest.name}' does not train it by {method}: {why}", "train.method")
    only = training_scope(manifest, quantization).model_types
    if family is not None and only and not set(only) & set(family.model_types):
        what = f"trains on {quantization} for the type {' or '.join(only)} only"
        return _no(f"the backend '{manifest.name}' {what}", "train.base.model")
    if family is not None and adaptation == "expert_lora" and not family.expert_parameters:
        return _no("the family has no routed experts", "train.adapter.lora.experts")
    if family is not None and adaptation == PROMPT and family.reads_ids:
        return _no(family.reads_ids, "train.adapter.prompt_tuning")
    return Verdict(standing=Standing.STATED, reason=f"{manifest.plugin} declares it")


def _no(reason: str, field: str) -> Verdict:
    return Verdict(standing=Standing.NO, reason=reason, field=field)
