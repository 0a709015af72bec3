"""What a request for a fine-tuning job becomes: a JobSpec like that of any job file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from google.protobuf import json_format

from tunefleet.job.v1.spec_pb2 import JobSpec, Optim
from tunefleet_core.errors import TunefleetError
from tunefleet_core.spec.nearest import did_you_mean
from tunefleet_services.gateway.fine_tuning.graders import rewards_of

__all__ = ["MULTIPLIER_LABEL", "METHODS", "job_spec", "learning_rate_multiplier"]

METHODS = {"supervised": "sft", "dpo": "dpo", "reinforcement": "grpo"}
"""Our method for each of OpenAI's."""
MULTIPLIER_LABEL = "learning-rate-multiplier"
"""Label of a job that keeps what its learning rate was multiplied by."""

_AUTO = "auto"
_FIELDS = (
    "model", "training_file", "validation_file", "suffix", "seed", "method", "hyperparameters", "metadata",
    "integrations", "tunefleet",
)  # fmt: skip
_NUMBERS = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta", "eval_interval")
_NEVER = ("compute_multiplier", "eval_samples", "reasoning_effort")
"""Hyperparameters of OpenAI's own machines."""
_MOST_LABELS = 16


def job_spec(body: Mapping[str, Any]) -> JobSpec:
    """Return the spec that a request asks for. A learning rate multiplier is not in it yet.

    The field `tunefleet` holds any other part of a job file, such as
    `{"train": {"adapter": {"lora": {"rank": 32}}}}`; what it says goes before what stands beside it.

    Raises:
        TunefleetError: FIELD_INVALID naming the field of the request.
    """
    for name in body:
        if name not in _FIELDS:
            raise TunefleetError.field(name, f"is no field of a fine-tuning job{did_you_mean(name, _FIELDS)}")
    spec = JobSpec(name=_slug(_text(body, "suffix") or _text(body, "model", required=True)))
    train = spec.train
    train.base.model = _text(body, "model", required=True)
    train.data.train.add(source=f"datasets/{_text(body, 'training_file', required=True)}")
    if validation := _text(body, "validation_file"):
        train.data.validation = f"datasets/{validation}"
    if body.get("seed") is not None:
        train.seed = _whole(body["seed"], "seed")
    train.adapter.lora.SetInParent()
    method, options = _method(body)
    _set_method(spec, method, options)
    hyper = _hyperparameters(body, options)
    _set_numbers(spec, hyper)
    for key, value in _metadata(body).items():
        spec.labels[key] = value
    if (multiplier := hyper.get("learning_rate_multiplier", _AUTO)) != _AUTO:
        spec.labels[MULTIPLIER_LABEL] = str(multiplier)
    _add_trackers(spec, body.get("integrations") or [])
    _merge(spec, body.get("tunefleet"))
    return spec


def learning_rate_multiplier(spec: JobSpec) -> float | None:
    """Return what the usual learning rate is to be multiplied by; None: left as it is."""
    text = spec.labels.get(MULTIPLIER_LABEL, "")
    try:
        return float(text) if text else None
    except ValueError:  # a label of that name that somebody else wrote
        return None


def _method(body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return which method is asked for, and its options."""
    method = body.get("method")
    if method is None:
        return "supervised", {}
    named = _object(method, "method")
    kind = named.get("type", "supervised")
    if not isinstance(kind, str) or kind not in METHODS:
        raise TunefleetError.field("method.type", f"must be one of {', '.join(METHODS)}, got '{kind}'")
    return kind, _object(named.get(kind) or {}, f"method.{kind}")


def _set_method(spec: JobSpec, method: str, options: Mapping[str, Any]) -> None:
    chosen = spec.train.method
    if method == "reinforcement":
        chosen.grpo.rewards.extend(rewards_of(options.get("grader"), "method.reinforcement.grader"))
    elif method == "dpo":
        chosen.dpo.SetInParent()
    else:
        chosen.sft.SetInParent()


def _hyperparameters(body: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked for beside `auto`: of the method, else of the older field beside it."""
    given = {
        **_object(body.get("hyperparameters") or {}, "hyperparameters"),
        **_object(options.get("hyperparameters") or {}, "hyperparameters"),
    }
    found = {name: value for name, value in given.items() if value is not None and value != _AUTO}
    for name in found:
        if name in _NEVER:
            raise TunefleetError.field(name, "is none of ours: leave it out, or say 'auto'")
        if name not in _NUMBERS:
            raise TunefleetError.field(name, f"is no hyperparameter{did_you_mean(name, _NUMBERS)}")
    return found


def _set_numbers(spec: JobSpec, hyper: Mapping[str, Any]) -> None:
    optim = Optim()
    if "n_epochs" in hyper:
        optim.epochs = _whole(hyper["n_epochs"], "n_epochs")
    if "batch_size" in hyper:
        optim.batch_size = _whole(hyper["batch_size"], "batch_size")
    spec.train.optim.MergeFrom(optim)
    if "eval_interval" in hyper:
        spec.train.validate_every_steps = _whole(hyper["eval_interval"], "eval_interval")
    if "beta" in hyper:
        if spec.train.method.WhichOneof("method") != "dpo":
            raise TunefleetError.field("beta", "is of the method dpo alone")
        spec.train.method.dpo.beta = _number(hyper["beta"], "beta")
    if "learning_rate_multiplier" in hyper:
        _number(hyper["learning_rate_multiplier"], "learning_rate_multiplier")


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    given = _object(body.get("metadata") or {}, "metadata")
    if len(given) > _MOST_LABELS or not all(isinstance(value, str) for value in given.values()):
        raise TunefleetError.field("metadata", f"must be at most {_MOST_LABELS} texts by name")
    if MULTIPLIER_LABEL in given:
        raise TunefleetError.field("metadata", f"may not have the name '{MULTIPLIER_LABEL}', which is kept")
    return given


def _add_trackers(spec: JobSpec, integrations: object) -> None:
    given = cast("list[object]", integrations) if isinstance(integrations, list) else [integrations]
    for at, item in enumerate(given):
        integration = _object(item, f"integrations[{at}]")
        if integration.get("type") != "wandb":
            raise TunefleetError.field(
                f"integrations[{at}].type", "must be 'wandb'; others are named under tunefleet.tracking"
            )
        wanted = _object(integration.get("wandb"), f"integrations[{at}].wandb")
        spec.tracking.add(
            name="wandb", project=_text(wanted, "project", required=True), entity=_text(wanted, "entity")
        )


def _merge(spec: JobSpec, given: object) -> None:
    """Put a part of a job file over a spec."""
    if given is None:
        return
    try:
        part = json_format.Parse(json.dumps(_object(given, "tunefleet")), JobSpec())
    except json_format.ParseError as error:
        raise TunefleetError.field("tunefleet", f"is no part of a job file: {error}") from error
    if part.train.adapter.WhichOneof("adapter") is None and part.train.HasField("adapter"):
        spec.train.ClearField("adapter")  # `adapter: {}`: full fine-tuning
        part.train.ClearField("adapter")
    spec.MergeFrom(part)


def _slug(text: str) -> str:
    """Return a job's name from a suffix or a model's name."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.rstrip("/").rpartition("/")[2].lower()).strip("-")
    return (slug if slug[:1].isalpha() else f"ft-{slug}")[:48].rstrip("-")


def _object(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TunefleetError.field(field, "must be an object")
    return cast("dict[str, Any]", value)


def _text(body: Mapping[str, Any], field: str, *, required: bool = False) -> str:
    value = body.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise TunefleetError.field(field, "must be a text" if value is not None else "is missing")
    return value


def _whole(value: object, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise TunefleetError.field(field, f"must be a whole number from 0 to {2**31 - 1:,}, or 'auto'")
    return value


def _number(value: object, field: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e6:
        raise TunefleetError.field(field, "must be a number above 0, or 'auto'")
    return float(value)
