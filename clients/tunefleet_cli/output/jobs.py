"""How a job looks: a sheet, its scores, the command that comes next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from tunefleet.job.v1.event_pb2 import Sample
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.state_pb2 import CheckpointRef, Score
from tunefleet_cli.output.chart import interval
from tunefleet_cli.output.lists import job_progress
from tunefleet_cli.output.notices import show_notices
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.quantities import age, bytes_text, duration_text, number_text
from tunefleet_cli.output.table import Column, Table
from tunefleet_cli.output.theme import state_text
from tunefleet_cli.run_progress import state_name
from tunefleet_client import is_terminal, short_name

__all__ = ["job_next_step", "show_job", "show_scores"]


def show_job(
    output: Output, job: Job, checkpoints: Sequence[CheckpointRef], samples: Sequence[Sample] = ()
) -> None:
    """Print everything about a job that people ask for."""
    if output.is_json:
        output.message(job)
        return
    metrics = job.progress
    state = state_text(state_name(job.state)) if output.is_human else Text(state_name(job.state))
    output.facts(
        [
            ("job", Text(short_name(job.name), style="strong")),
            ("state", state),
            ("why", job.error.message),
            ("work", _work(job)),
            ("progress", job_progress(job)),
            ("loss", number_text(metrics.loss) if metrics.HasField("loss") else ""),
            ("device use", f"{metrics.mfu:.0%} MFU" if metrics.HasField("mfu") else ""),
            ("memory", bytes_text(metrics.peak_memory_bytes) if metrics.peak_memory_bytes else ""),
            ("backend", _backend(job)),
            ("attempt", _attempt(job)),
            ("checkpoints", ", ".join(f"step {item.step}" for item in checkpoints)),
            ("model", _model(job)),
            ("created", f"{age(job.create_time, output.now())} ago by {job.creator or 'unknown'}"),
            ("took", _took(job)),
            ("spec digest", job.resolved_spec_digest[:16]),
        ]
    )
    if job.result.scores:
        output.heading("Scores")
        show_scores(output, job.result.scores)
    if samples:
        output.heading("What it answers")
        columns = [
            Column(title="STEP", align="right"),
            Column(title="PROMPT", style="faint", wraps=True),
            Column(title="ANSWER", wraps=True),
        ]
        rows = [[f"{item.step:,}", _printable(item.prompt), _printable(item.answer)] for item in samples]
        output.table(Table(columns=columns, rows=rows))
    if job.resolved_spec.values:
        output.heading("Decided for you")
        columns = [
            Column(title="FIELD", style="accent"),
            Column(title="VALUE"),
            Column(title="WHY", wraps=True, rank=1),
        ]
        rows = [[item.field, item.value, item.reason] for item in job.resolved_spec.values]
        output.table(Table(columns=columns, rows=rows))
    show_notices(output, job.resolved_spec.notices)


def show_scores(output: Output, scores: Sequence[Score]) -> None:
    """Print scores with their 95 % intervals."""
    columns = [
        Column(title="METRIC", style="accent"),
        Column(title="SCORE", align="right"),
        Column(title="95 % INTERVAL", align="right"),
        Column(title="0 TO 1", rank=2),
        Column(title="ROWS", align="right", rank=1),
    ]
    rows = [
        [
            score.metric,
            f"{score.value:.3f}",
            f"{score.low:.3f} – {score.high:.3f}",
            interval(score.low, score.value, score.high, width=24),
            f"{score.rows:,}",
        ]
        for score in scores
    ]
    output.table(Table(columns=columns, rows=rows, empty="The job has no scores."))


def job_next_step(job: Job) -> str:
    """Return the command that follows a job's end."""
    name = short_name(job.name)
    match state_name(job.state):
        case "SUCCEEDED" if job.result.model:
            return f"tunefleet deploy {short_name(job.result.model)} --wait"
        case "SUCCEEDED" | "CANCELLED":
            return f"tunefleet jobs get {name}"
        case "FAILED":
            return f"tunefleet jobs logs {name}"
        case _:
            return f"tunefleet jobs watch {name}"


def _model(job: Job) -> str:
    name = short_name(job.result.model)
    if not name or not job.result.step:
        return name
    by = job.resolved_spec.spec.train.checkpoint.best_by
    is_best = by not in ("", "none")
    return f"{name}, step {job.result.step:,}" + (f", the best by {by.replace('_', ' ')}" if is_best else "")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _work(job: Job) -> str:
    spec = job.spec
    if spec.HasField("evaluate"):
        return f"evaluate {spec.evaluate.model.model} on {spec.evaluate.data}"
    adapter = spec.train.adapter.WhichOneof("adapter") or "full"
    return f"train {adapter} on {spec.train.base.model}"


def _attempt(job: Job) -> str:
    if not job.attempt:
        return ""
    return f"{job.attempt} on {short_name(job.service)}" if job.service else str(job.attempt)


def _backend(job: Job) -> str:
    resolved = job.resolved_spec.backend
    return " ".join(part for part in (resolved.name or job.spec.backend, resolved.plugin) if part)


def _took(job: Job) -> str:
    if not is_terminal(job) or not job.start_time.seconds or not job.end_time.seconds:
        return ""
    span = job.end_time.ToDatetime() - job.start_time.ToDatetime()
    return duration_text(span.total_seconds())
