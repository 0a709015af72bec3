"""A job as OpenAI's `fine_tuning.job`."""

from __future__ import annotations

from collections.abc import Mapping

from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.job.v1.state_pb2 import JobState
from tunefleet_core.errors import error_from_status
from tunefleet_services.gateway.errors import as_sentences
from tunefleet_services.gateway.fine_tuning.graders import grader_of
from tunefleet_services.gateway.fine_tuning.job_spec import (
    METHODS,
    MULTIPLIER_LABEL,
    learning_rate_multiplier,
)
from tunefleet_services.gateway.fine_tuning.names import fine_tuned_name

__all__ = ["base_of", "is_fine_tuning", "job_document", "job_id_of"]

_STATUS = {
    JobState.JOB_STATE_PENDING: "queued",
    JobState.JOB_STATE_WAITING_RETRY: "queued",
    # OpenAI's clients know no word for it; `state` beside it says it.
    JobState.JOB_STATE_PAUSED: "queued",
    JobState.JOB_STATE_SUCCEEDED: "succeeded",
    JobState.JOB_STATE_FAILED: "failed",
    JobState.JOB_STATE_CANCELLED: "cancelled",
}
"""All others have a device, or are about to give it back: `running`."""
_METHOD_NAMES = {ours: theirs for theirs, ours in METHODS.items()}


def is_fine_tuning(job: Job) -> bool:
    """Whether a job trains; others are not OpenAI's to see."""
    return job.spec.WhichOneof("work") == "train"


def job_id_of(job: Job) -> str:
    """Return the id of a job, the same here and there."""
    return job.name.rpartition("/")[2]


def base_of(job: Job) -> str:
    """Return the base as it was asked for."""
    return job.spec.train.base.model


def job_document(job: Job) -> dict[str, object]:
    """Return what OpenAI clients read. `state` is ours, beside their fields."""
    project = job.name.split("/")[1]
    model = job.result.model.rpartition("/")[2]
    train, resolved = job.spec.train, job.resolved_spec.spec.train
    source = train.data.train[0].source if train.data.train else ""
    hyper = _hyperparameters(job.spec, job.resolved_spec.spec)
    return {
        "id": job_id_of(job),
        "object": "fine_tuning.job",
        "created_at": job.create_time.seconds,
        "error": _error(job),
        "fine_tuned_model": fine_tuned_name(base_of(job), project, model) if model else None,
        "finished_at": job.end_time.seconds if job.HasField("end_time") else None,
        "hyperparameters": hyper,
        "model": base_of(job),
        "organization_id": project,
        "result_files": [],
        "seed": resolved.seed if resolved.HasField("seed") else train.seed,
        "status": _STATUS.get(job.state, "running"),
        "trained_tokens": job.progress.tokens or None,
        "training_file": _file_of(source),
        "validation_file": _file_of(train.data.validation) or None,
        "estimated_finish": None,
        "integrations": [
            {"type": "wandb", "wandb": {"project": item.project, "entity": item.entity or None}}
            for item in job.spec.tracking
            if item.name == "wandb"
        ],
        "metadata": {key: value for key, value in job.labels.items() if key != MULTIPLIER_LABEL},
        "method": _method(job.spec, hyper),
        "state": JobState.Name(job.state).removeprefix("JOB_STATE_"),
    }


def _error(job: Job) -> Mapping[str, object] | None:
    if not job.HasField("error"):
        return None
    error = error_from_status(job.error)
    message = as_sentences(error.message, error.hint)
    return {"code": error.reason.lower(), "message": message, "param": error.metadata.get("field")}


def _hyperparameters(asked: JobSpec, resolved: JobSpec) -> dict[str, object]:
    """Return the numbers that were decided; `auto` where a list of jobs does not tell them."""
    optim = resolved.train.optim if resolved.HasField("train") else asked.train.optim
    multiplier = learning_rate_multiplier(asked)
    return {
        "n_epochs": int(optim.epochs) if optim.epochs and optim.epochs.is_integer() else "auto",
        "batch_size": optim.batch_size or "auto",
        "learning_rate_multiplier": "auto" if multiplier is None else multiplier,
    }


def _method(spec: JobSpec, hyper: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return the method in OpenAI's words; None for those it has no word for."""
    method = spec.train.method
    name = _METHOD_NAMES.get(method.WhichOneof("method") or "sft")
    match name:
        case "supervised":
            return {"type": name, name: {"hyperparameters": hyper}}
        case "dpo":
            beta = method.dpo.beta if method.dpo.HasField("beta") else "auto"
            return {"type": name, name: {"hyperparameters": {**hyper, "beta": beta}}}
        case "reinforcement":
            grader = grader_of(method.grpo.rewards)
            return (
                {"type": name, name: {"grader": grader, "hyperparameters": hyper}}
                if grader
                else {"type": name}
            )
        case _:
            return None


def _file_of(source: str) -> str:
    """Return the file's id; a path, of a job that came another way, as it is."""
    return source.rpartition("datasets/")[2]
