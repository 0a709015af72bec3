"""What a job spec must satisfy: required fields, ranges, choices, and how fields agree.

Pure, and applied wherever a spec comes from: a job file on the client, and again on
the coordinator, whose callers may have built the message by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tunefleet.job.v1.spec_pb2 import (
    EvaluateSpec,
    ExportSpec,
    JobSpec,
    LoraAdapter,
    TrainSpec,
)
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError
from tunefleet_core.spec.combinations import (
    INITS,
    OPTIMIZERS,
    SCHEDULES,
    combined,
    layers,
    prompt_tuning,
    shares,
)
from tunefleet_core.spec.descriptors import is_map, is_repeated
from tunefleet_core.spec.life_rules import life_violations
from tunefleet_core.spec.lora_scale import effective_scale, scale_formula
from tunefleet_core.spec.method_rules import method_violations
from tunefleet_core.spec.nearest import did_you_mean
from tunefleet_core.spec.tracking_rules import tracking_violations

__all__ = [
    "DTYPES",
    "LOSS_ON",
    "MERGE_DTYPES",
    "METRICS",
    "INITS",
    "OPTIMIZERS",
    "OVER_LONG",
    "QUANTIZATIONS",
    "SCHEDULES",
    "find_violations",
    "validate_spec",
]

DTYPES = ("float32", "bfloat16", "float16")
MERGE_DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("nf4", "fp4", "int8", "mlx4", "mlx8")
OVER_LONG = ("error", "drop")
LOSS_ON = ("assistant", "all")
METRICS = ("exact_match", "json_valid", "f1")

_SLUG = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_MIN_SCALE, _MAX_SCALE = 0.01, 64.0

_Rule = Callable[[object], str]  # a value to what is wrong with it; empty: nothing


def validate_spec(spec: JobSpec) -> None:
    """Check a spec.

    Raises:
        TunefleetError: FIELD_INVALID with every violation; the message names each.

    Example:
        >>> validate_spec(JobSpec(name="x"))
        Traceback (most recent call last):
        tunefleet_core.errors.error.TunefleetError: train: is missing; give train or evaluate
    """
    violations = find_violations(spec)
    if violations:
        raise TunefleetError(
            Reason.FIELD_INVALID,
            "\n".join(f"{violation.field}: {violation.description}" for violation in violations),
            hint=f"Correct '{violations[0].field}' and send the job again.",
            metadata={"field": violations[0].field},
            violations=violations,
        )


def find_violations(spec: JobSpec) -> list[FieldViolation]:
    """Return everything that is wrong with a spec, in the order of its fields."""
    found = [*_required(spec), *_by_rule(spec, "")]
    if spec.HasField("train"):
        found += _train(spec.train)
        found += shares(spec.train.optim, spec.resources.devices)
        found += prompt_tuning(spec.train, spec.resources.devices)
    if spec.HasField("evaluate"):
        found += _evaluate(spec.evaluate)
    found += tracking_violations(spec)
    return [FieldViolation(field=field, description=description) for field, description in found]


def _required(spec: JobSpec) -> Iterator[tuple[str, str]]:
    if not spec.name:
        yield "name", "is missing"
    work = spec.WhichOneof("work")
    if work is None:
        yield "train", "is missing; give train or evaluate"
    elif work == "train":
        if not spec.train.base.model:
            yield "train.base.model", "is missing; name a local folder or a Hub id"
        if not spec.train.data.train:
            yield "train.data.train", "is missing; name at least one JSONL file as a source"
        for index, source in enumerate(spec.train.data.train):
            if not source.source:
                yield f"train.data.train[{index}].source", "is missing; name a JSONL file"
    elif work == "export":
        yield from _export(spec.export)
    else:
        if not spec.evaluate.model.model:
            yield "evaluate.model.model", "is missing; name models/<name>, a local folder or a Hub id"
        if not spec.evaluate.data:
            yield "evaluate.data", "is missing; name a JSONL file"


def _export(export: ExportSpec) -> Iterator[tuple[str, str]]:
    if not export.model.model:
        yield "export.model.model", "is missing; name models/<name> of a trained model"
    elif not export.model.model.startswith(("models/", "projects/")):
        yield "export.model.model", f"'{export.model.model}' is no model of the fleet; name models/<name>"
    if export.WhichOneof("form") is None:
        yield "export", "names no form; write merge: {} or quantize: {format: NAME}"
    if export.HasField("quantize") and not export.quantize.format:
        yield "export.quantize.format", "is missing; name a format: tunefleet catalog formats"


def _train(train: TrainSpec) -> Iterator[tuple[str, str]]:
    if train.HasField("adapter") and train.adapter.WhichOneof("adapter") is None:
        yield (
            "train.adapter",
            "names no kind; write lora: {} or prompt_tuning: {}, or leave it out to train every weight",
        )
    if train.HasField("method") and train.method.WhichOneof("method") is None:
        yield "train.method", "names no method; write sft: {} or leave it out"
    yield from method_violations(train)
    if train.adapter.HasField("lora"):
        yield from _lora(train.adapter.lora)
    if not train.HasField("adapter"):
        yield from _full(train)
    yield from combined(train)
    yield from life_violations(train)


def _lora(lora: LoraAdapter) -> Iterator[tuple[str, str]]:
    has_rank = lora.rank > 0 or not lora.HasField("rank")
    if lora.HasField("alpha") and has_rank and lora.alpha > 0:
        scale = effective_scale(lora)
        if not _MIN_SCALE <= scale <= _MAX_SCALE:
            yield (
                "train.adapter.lora.alpha",
                f"makes the scale {scale_formula(lora)} {scale:g}, which must lie between "
                f"{_MIN_SCALE:g} and {_MAX_SCALE:g}",
            )
    if lora.experts and lora.dora:
        yield (
            "train.adapter.lora.experts",
            "cannot be combined with dora, which the library has for linear layers only; leave one out",
        )
    if lora.experts and lora.dropout > 0:
        yield (
            "train.adapter.lora.dropout",
            "must be 0 with experts: true, since the library has no dropout for adapters on routed experts",
        )
    for index, target in enumerate(lora.targets):
        if not target.strip():
            yield f"train.adapter.lora.targets[{index}]", "is empty; name a module or all-linear"


def _full(train: TrainSpec) -> Iterator[tuple[str, str]]:
    """Yield what has no sense without an adapter."""
    if train.quantization in QUANTIZATIONS:
        yield (
            "train.quantization",
            f"{train.quantization} weights cannot be trained in full, only an adapter on them; "
            "add adapter: {lora: {}} or leave the quantisation out",
        )
    if train.merge:
        yield (
            "train.merge",
            "needs an adapter to merge: full fine-tuning writes a whole model already; leave merge out",
        )


def _evaluate(evaluate: EvaluateSpec) -> Iterator[tuple[str, str]]:
    if evaluate.example_count and not evaluate.examples:
        yield "evaluate.example_count", "needs a file of examples in evaluate.examples"
    if len(set(evaluate.metrics)) != len(evaluate.metrics):
        yield "evaluate.metrics", "names a metric twice"


def _by_rule(message: Message, path: str) -> Iterator[tuple[str, str]]:
    """Apply the rules of single fields to every field that is set, and to what lies below."""
    for field, content in message.ListFields():
        name, rule, is_list = _known_of(field)
        name = f"{path}.{name}" if path else name
        items = enumerate(content) if is_list else ((-1, content),)
        for index, item in items:
            if rule is not None:
                if wrong := rule(item):
                    yield f"{name}[{index}]" if is_list else name, wrong
            elif isinstance(item, Message):
                yield from _by_rule(item, f"{name}[{index}]" if is_list else name)


@cache
def _known_of(field: FieldDescriptor) -> tuple[str, _Rule | None, bool]:
    """Return the name of a field, its rule, and whether it is a list: asked of every field of every spec."""
    owner = cast("Descriptor", field.containing_type)  # a field of a message, no extension
    rule = _RULES.get(f"{owner.name}.{field.name}")
    return field.name, rule, is_repeated(field) and not is_map(field)


def _above(low: float, high: float = math.inf) -> _Rule:
    """Greater than `low`, at most `high`; NaN is neither."""

    def check(value: object) -> str:
        number = cast("float", value)
        if number > low and number <= high and math.isfinite(number):
            return ""
        bound = "" if math.isinf(high) else f" and at most {high:,}"
        return f"must be greater than {low:g}{bound}, got {number:g}"

    return check


def _within(low: float, high: float, *, below: bool = False) -> _Rule:
    """From `low` up to `high`, `high` excluded if `below`."""

    def check(value: object) -> str:
        number = cast("float", value)
        if number >= low and (number < high if below else number <= high):
            return ""
        end = f"below {high:g}" if below else f"at most {high:g}"
        return f"must be at least {low:g} and {end}, got {number:g}"

    return check


def _one_of(words: tuple[str, ...]) -> _Rule:
    def check(value: object) -> str:
        word = cast("str", value)
        if word in words:
            return ""
        return f"must be one of {', '.join(words)}, got '{word}'{did_you_mean(word, words)}"

    return check


def _dtype(value: object) -> str:
    if value in ("fp16", "half"):
        return f"must be one of {', '.join(DTYPES)}, got '{value}'; did you mean 'float16'?"
    return _one_of(DTYPES)(value)


def _said(value: object) -> str:
    return "" if cast("str", value).strip() else "says nothing; leave it out"


def _slug(value: object) -> str:
    if _SLUG.fullmatch(cast("str", value)):
        return ""
    return (
        "must be 1 to 63 lower-case letters, digits and hyphens, begin with a letter and not end with a "
        f"hyphen, got '{value}'"
    )


def _labels(value: object) -> str:
    for key in cast("Mapping[str, str]", value):
        if not key.strip():
            return "has a label without name"
    return ""


def _finite_options(value: object) -> str:
    return "" if _is_finite(cast("Message", value)) else "holds NaN or infinity"


def _is_finite(message: Message) -> bool:
    for field, content in message.ListFields():
        values = content.values() if is_map(field) else content if is_repeated(field) else [content]
        for item in values:
            if isinstance(item, float) and not math.isfinite(item):
                return False
            if isinstance(item, Message) and not _is_finite(item):
                return False
    return True


_RULES: Mapping[str, _Rule] = {
    "JobSpec.name": _slug,
    "JobSpec.backend": _slug,
    "JobSpec.backend_options": _finite_options,
    "JobSpec.labels": _labels,
    "JobSpec.max_attempts": _above(0),
    "Resources.devices": _above(0),
    "Resources.labels": _labels,
    "DataSource.weight": _above(0),
    "DataSource.repeats": _above(0, 1000),
    "DataSource.cap": _above(0),
    "LoraAdapter.rank": _above(0, 4096),
    "LoraAdapter.alpha": _above(0),
    "LoraAdapter.dropout": _within(0, 1, below=True),
    "LoraAdapter.layers": layers,
    "LoraAdapter.init": _one_of(INITS),
    "LoraAdapter.lora_plus_ratio": _within(1, 64),
    "PromptTuning.num_virtual_tokens": _above(0, 4096),
    "PromptTuning.init_text": _said,
    "DpoMethod.beta": _above(0),
    "IpoMethod.beta": _above(0),
    "KtoMethod.beta": _above(0),
    "OrpoMethod.beta": _above(0),
    "SimpoMethod.beta": _above(0),
    "SimpoMethod.gamma": _within(0, 100),
    "GrpoMethod.num_generations": _above(1, 1024),
    "GrpoMethod.beta": _within(0, 100),
    "GrpoMethod.temperature": _above(0, 10),
    "GrpoMethod.max_completion_length": _above(0),
    "RlooMethod.num_generations": _above(1, 1024),
    "RlooMethod.beta": _within(0, 100),
    "RlooMethod.temperature": _above(0, 10),
    "RlooMethod.max_completion_length": _above(0),
    "DistillMethod.on_policy_share": _within(0, 1),
    "DistillMethod.beta": _within(0, 1),
    "DistillMethod.temperature": _within(0, 10),
    "DistillMethod.max_completion_length": _above(0),
    "ChatEndpoint.timeout_seconds": _above(0, 3600),
    "ChatEndpoint.retries": _within(0, 100),
    "RewardMethod.center_rewards_coefficient": _within(0, 100),
    "Reward.weight": _above(0),
    "Reward.options": _finite_options,
    "KtoMethod.desirable_weight": _above(0),
    "KtoMethod.undesirable_weight": _above(0),
    "Optim.learning_rate": _above(0, 1),
    "Optim.epochs": _above(0, 1_000_000),
    "Optim.batch_size": _above(0),
    "Optim.micro_batch_size": _above(0),
    "Optim.schedule": _one_of(SCHEDULES),
    "Optim.warmup_ratio": _within(0, 0.5),
    "Optim.max_grad_norm": _above(0),
    "Optim.weight_decay": _within(0, 1, below=True),
    "Optim.optimizer": _one_of(OPTIMIZERS),
    "Optim.min_lr_ratio": _within(0, 1, below=True),
    "Optim.warmup_steps": _within(0, 2**31),
    "Optim.decay_ratio": _above(0, 0.9),
    "Optim.beta1": _within(0, 1, below=True),
    "Optim.beta2": _within(0, 1, below=True),
    "Optim.epsilon": _above(0, 1e-2),
    "Optim.max_steps": _within(0, 2**62),
    "Optim.max_seconds": _above(0),
    "TrainSpec.max_length": _above(0),
    "TrainSpec.over_long": _one_of(OVER_LONG),
    "TrainSpec.seed": _within(0, 2**32, below=True),
    "TrainSpec.dtype": _dtype,
    "TrainSpec.quantization": _one_of(QUANTIZATIONS),
    "TrainSpec.neftune_alpha": _within(0, 100),
    "TrainSpec.loss_on": _one_of(LOSS_ON),
    "CheckpointPolicy.every_steps": _above(0),
    "CheckpointPolicy.keep": _above(0),
    "EvaluateSpec.example_count": _within(0, 64),
    "EvaluateSpec.metrics": _one_of(METRICS),
    "EvaluateSpec.max_new_tokens": _above(0),
    "EvaluateSpec.batch_size": _above(0),
    "MergeForm.dtype": _one_of(MERGE_DTYPES),
    "QuantizeForm.calibration_rows": _above(0, 1_000_000),
}
