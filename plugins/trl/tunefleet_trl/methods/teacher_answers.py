"""Have a teacher behind an endpoint answer the prompts of a run, and make rows of what it says.

The answers are files of the run and of its checkpoints: a run that resumes trains on the same ones
and asks for none. Answers that were cut, and empty ones, are left out and told.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.job.v1.resolved_pb2 import ResolvedData
from tunefleet.job.v1.spec_pb2 import DistillMethod
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.chat_endpoint import ChatAnswer, ChatClient, secret_of
from tunefleet_core.data import PromptRow, file_digest, openai_messages, read_prompts
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import data_of_role
from tunefleet_trl.processes import is_first, wait_for_all

__all__ = ["answer_prompts"]

_FIELD = "train.method.distill.teacher.endpoint"
_LONGEST = 256
_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS, _RETRIES = 120.0, 4


def answer_prompts(context: RunContext) -> tuple[Path, ...]:
    """Make the order of a run, a copy of this process's own, one of questions with their answers.

    Returns:
        The files of the answers.

    Raises:
        RunStopped: the run was asked to stop meanwhile.
        TunefleetError: UNAVAILABLE, PERMISSION_DENIED or BACKEND_FAILED of the endpoint, DATA_INVALID.
    """
    order = context.order
    train = order.resolved_spec.spec.train
    folder = Path(order.work_dir) / "teacher"
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for role in ("train", "validation"):
        for data in data_of_role(order.resolved_spec, role):
            path = folder / f"teacher-answers-{len(files)}.jsonl"
            if is_first(order):  # of several processes on this host one asks for all
                path.unlink(missing_ok=True)
            wait_for_all(order)
            if is_first(order):
                _bring(context, train.method.distill, data, path)
            else:
                _await(context, path)
            files.append(path)
            data.path, data.sha256 = str(path), file_digest(path)
    train.max_length += train.method.distill.max_completion_length or _LONGEST
    train.over_long = "drop"  # the teacher counts other tokens
    return tuple(files)


def _await(context: RunContext, path: Path) -> None:
    """Wait until another process has all answers, longer than libraries would wait for one another."""
    while not path.is_file():
        _stop_if_asked(context)
        time.sleep(_POLL_SECONDS)


def _bring(context: RunContext, options: DistillMethod, data: ResolvedData, path: Path) -> None:
    """Write the answers: those of the checkpoint that the run goes on from, else new ones."""
    resume_from = context.order.resume_from
    known = Path(resume_from) / path.name if resume_from else None
    partial = path.with_suffix(".partial")
    if known is not None and known.is_file():
        shutil.copyfile(known, partial)
    else:
        _ask(context, options, data, partial)
    partial.rename(path)  # who waits for it sees all of it


def _ask(context: RunContext, options: DistillMethod, data: ResolvedData, path: Path) -> None:
    endpoint = options.teacher.endpoint
    client = ChatClient(
        url=endpoint.url,
        model=endpoint.model,
        key=secret_of(endpoint.api_key, field=f"{_FIELD}.api_key"),
        timeout_seconds=endpoint.timeout_seconds or _TIMEOUT_SECONDS,
        retries=endpoint.retries if endpoint.HasField("retries") else _RETRIES,
    )
    rows = list(read_prompts(data.path))
    answers = client.answers(
        [openai_messages([message.as_chat() for message in row.prompt]) for row in rows],
        max_tokens=options.max_completion_length or _LONGEST,
        temperature=options.temperature,
        told=lambda count: _stop_if_asked(context),
    )
    _write(context, rows, answers, path, source=Path(data.path).name)


def _write(
    context: RunContext, rows: Sequence[PromptRow], answers: Sequence[ChatAnswer], path: Path, *, source: str
) -> None:
    lines: list[str] = []
    for row, answer in zip(rows, answers, strict=True):
        if answer.text.strip() and not answer.is_cut:
            prompt = [message.as_chat() for message in row.prompt]
            lines.append(json.dumps({"prompt": prompt, "completion": answer.text}, ensure_ascii=False))
    if not lines:
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"The teacher answered none of the {len(rows)} prompts of '{source}' to the end.",
            hint="Raise train.method.distill.max_completion_length, or ask another model.",
        )
    if len(lines) < len(rows):
        context.notice(
            f"{len(rows) - len(lines)} of {len(rows)} answers of the teacher to '{source}' are empty or were "
            "cut, and are left out.",
            hint="Raise train.method.distill.max_completion_length.",
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _stop_if_asked(context: RunContext) -> None:
    if context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
        raise RunStopped("stopped while the teacher answered")
