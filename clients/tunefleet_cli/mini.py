"""`tunefleet train FILE --mini`: the whole chain, from rows to a chat, on so little that it takes a minute.

Every row is read first, so that mistakes show at once and with the file's own line
numbers. Then a copy of the job runs on the first rows of each file, one epoch, at most a
minute of steps; what it learned is deployed beside its base, both answer one held-out
question, and both are taken down. The small model stays, to be looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentSpec
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_cli.follow import follow_to_end
from tunefleet_cli.gateway_chat import Gateway
from tunefleet_cli.invocation import Invocation
from tunefleet_cli.output import Output
from tunefleet_client import Client, short_name
from tunefleet_core.data import Row, Tool, openai_messages, read_rows
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["MOST_ROWS", "MOST_STEP_SECONDS", "MiniJob", "cut_job", "run_mini"]

MOST_ROWS = 100
"""Training rows of a mini run, over all its sources."""
MOST_STEP_SECONDS = 60.0
"""Seconds of optimiser steps."""
_MOST_VALIDATION_ROWS = 20
_ANSWER_TOKENS = 128
_DEFAULT_BATCH = 16
_NAME_LENGTH = 50  # leaves room for what is put behind it
_DATASETS = ("datasets/", "projects/")


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniJob:
    """A job cut small, how many rows it has, and a question it was not trained on."""

    spec: JobSpec
    rows: int
    question: tuple[Mapping[str, object], ...] = ()
    right: str = ""
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """What tuned model and base said."""

    tuned: str
    base: str


def cut_job(spec: JobSpec, folder: Path) -> MiniJob:
    """Read every row of a training job and return the job on the first of them.

    Args:
        spec: The whole job.
        folder: Where the first rows are written; the trainer has to see it.

    Raises:
        TunefleetError: FIELD_INVALID if it is no training job, DATA_INVALID with the first
            mistake of every file.
    """
    if not spec.HasField("train"):
        raise TunefleetError.field("train", "is missing; --mini is for training jobs")
    method = spec.train.method.WhichOneof("method") or "sft"
    if method != "sft":
        raise TunefleetError.field(
            f"train.method.{method}",
            "cannot be tried with --mini, which asks the question of a conversation at the end",
            hint="Set train.optim.max_steps: 5 instead.",
        )
    rows = _read_all(spec)
    folder.mkdir(parents=True, exist_ok=True)
    mini = JobSpec()
    mini.CopyFrom(spec)
    mini.name = f"{spec.name[:_NAME_LENGTH].rstrip('-')}-mini"
    train = mini.train
    each = max(1, MOST_ROWS // len(train.data.train))
    used = 0
    for index, source in enumerate(train.data.train):
        if source.source in rows:
            first = rows[source.source][:each]
            used += len(first)
            source.source = _copy(source.source, first, folder / f"train-{index}.jsonl")
    held_out = rows.get(train.data.validation, [])[:_MOST_VALIDATION_ROWS]
    if held_out:
        train.data.validation = _copy(train.data.validation, held_out, folder / "validation.jsonl")
    _bound(mini)
    asked = [*held_out, *(row for found in rows.values() for row in found[:1])]
    question, right = _question(asked[0]) if asked else ((), "")
    tools = asked[0].tools if asked else ()
    return MiniJob(spec=mini, rows=used or MOST_ROWS, question=question, right=right, tools=tools)


def run_mini(invocation: Invocation, spec: JobSpec, *, file: str, job_id: str | None) -> None:
    """Run the whole chain and say how it went.

    Raises:
        click.exceptions.Exit: the run did not succeed, or a person left it.
        TunefleetError: whatever went wrong, as of the whole job.
    """
    output = invocation.output()
    folder = invocation.state_folder() / "mini" / (job_id or spec.name or "job")
    mini = cut_job(spec, folder)
    job = invocation.ask(lambda client: client.jobs.create(mini.spec, job_id=job_id))
    name = short_name(job.name)
    if not output.is_json:
        output.note(f"Every row can be read. {name} tries the whole chain on {mini.rows} rows.")
    follow_to_end(invocation, job.name)
    answers = invocation.ask(lambda client: _chat(client, invocation.gateway(), name, mini))
    _show(output, mini, answers, name=name, file=file)


def _read_all(spec: JobSpec) -> dict[str, list[Row]]:
    """Return the rows of every file of this machine; what the fleet keeps was read when it was made."""
    paths = [source.source for source in spec.train.data.train]
    if spec.train.data.validation:
        paths.append(spec.train.data.validation)
    rows: dict[str, list[Row]] = {}
    mistakes: list[TunefleetError] = []
    for path in dict.fromkeys(path for path in paths if not path.startswith(_DATASETS)):
        try:
            rows[path] = list(read_rows(path))
        except TunefleetError as error:
            mistakes.append(error)
    if mistakes:
        raise TunefleetError(
            Reason.DATA_INVALID,
            "\n".join(error.message for error in mistakes),
            hint=mistakes[0].hint,
            metadata=mistakes[0].metadata,
            violations=[violation for error in mistakes for violation in error.violations],
        )
    return rows


def _copy(source: str, rows: Sequence[Row], target: Path) -> str:
    """Copy the lines of the first rows, blank ones too: a row keeps its line number."""
    with Path(source).open("rb") as lines:
        target.write_bytes(b"".join(next(lines) for _ in range(rows[-1].line)))
    return str(target)


def _bound(mini: JobSpec) -> None:
    optim = mini.train.optim
    batch = optim.batch_size or _DEFAULT_BATCH
    steps = math.ceil(MOST_ROWS / batch)  # a dataset of the fleet is not cut, so the steps are
    optim.max_steps = min(optim.max_steps or steps, steps)
    if all(not source.source.startswith(_DATASETS) for source in mini.train.data.train):
        optim.ClearField("max_steps")
    optim.epochs = 1.0
    optim.max_seconds = min(optim.max_seconds or MOST_STEP_SECONDS, MOST_STEP_SECONDS)
    mini.labels["mini"] = "true"


def _question(row: Row) -> tuple[tuple[Mapping[str, object], ...], str]:
    """Return the messages up to the last answer, and that answer: its text, or the calls it makes."""
    last = max(turn for turn, message in enumerate(row.messages) if message.role == "assistant")
    answer = row.messages[last]
    calls = [f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in answer.tool_calls]
    return tuple(row.as_chat()[:last]), "\n".join([*([answer.content] if answer.content else []), *calls])


async def _chat(client: Client, gateway: Gateway, name: str, mini: MiniJob) -> _Answers:
    """Serve tuned model and base, ask both, and take both down whatever happens."""
    job: Job = await client.jobs.get(name)
    base = mini.spec.train.base.model
    served: list[Deployment] = []
    try:
        for model, end in ((f"models/{short_name(job.result.model)}", ""), (base, "-base")):
            made = await client.deployments.create(
                DeploymentSpec(model=model), deployment_id=f"{name[:_NAME_LENGTH].rstrip('-')}{end}"
            )
            served.append(made)
            await client.deployments.wait(made.name)
        tuned, untuned = (_answer(gateway, short_name(item.name), mini) for item in served)
        return _Answers(tuned=tuned, base=untuned)
    finally:
        for item in served:
            await client.deployments.delete(item.name, allow_missing=True)


def _answer(gateway: Gateway, model: str, mini: MiniJob) -> str:
    messages = openai_messages(mini.question) or [{"role": "user", "content": "Hello!"}]
    options: dict[str, object] = {"temperature": 0, "max_tokens": _ANSWER_TOKENS}
    if mini.tools:
        options["tools"] = list(mini.tools)
    reply = gateway.complete(model, messages, options)
    choices = cast("list[Mapping[str, Mapping[str, object]]]", reply.get("choices") or [{}])
    return str(choices[0].get("message", {}).get("content") or "")


def _show(output: Output, mini: MiniJob, answers: _Answers, *, name: str, file: str) -> None:
    asked = str(mini.question[-1]["content"]) if mini.question else "Hello!"
    if output.is_json:
        output.document(
            "mini.v1.Mini",
            {
                "job": name,
                "rows": mini.rows,
                "question": asked,
                "right": mini.right,
                "tuned": answers.tuned,
                "base": answers.base,
            },
        )
        return
    output.gap()
    output.facts(
        [("asked", asked), ("right", mini.right), ("tuned", answers.tuned), ("base", answers.base)],
    )
    output.gap()
    output.note(f"The deployments are taken down; the model stays until: tunefleet models delete {name}")
    output.done("Ready for the full run.", next_step=f"tunefleet train {file}")
