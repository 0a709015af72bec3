"""The run of an evaluation around the answers of a backend."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from google.protobuf import json_format

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput
from tunefleet.job.v1.event_pb2 import Metrics, RunPhase
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import EvaluateSpec
from tunefleet.job.v1.state_pb2 import Score
from tunefleet_core.backend import RunContext
from tunefleet_core.data import Row, read_rows
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError
from tunefleet_core.evaluation.scoring import METRICS, RowScore, score_row, scores
from tunefleet_core.rendering import Renderer, TemplateRefusedError, data_of_role

__all__ = ["Generate", "evaluate", "wanted_metrics"]

_DEFAULT_EXAMPLES = 3
_DEFAULT_NEW_TOKENS = 128
_DEFAULT_BATCH = 32

Generate: TypeAlias = Callable[[Sequence[list[int]], int, Sequence[int]], Sequence[list[int]]]
"""Goes on from prompts by the likeliest tokens: so many at most; these end an answer and may be in it.

It raises RunStopped soon after the run was asked to stop.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A prompt with its right answer."""

    line: int
    text: str
    prompt: list[int]
    right: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What the model said, with its scores."""

    question: _Question
    given: str
    score: RowScore


def wanted_metrics(spec: EvaluateSpec) -> list[str]:
    """Return what is asked for; all there is where nothing is.

    Raises:
        TunefleetError: FIELD_INVALID for a metric that is none.
    """
    for metric in spec.metrics:
        if metric not in METRICS:
            raise TunefleetError.field(
                "evaluate.metrics", f"'{metric}' is no metric; there are {', '.join(METRICS)}"
            )
    return list(spec.metrics) or list(METRICS)


def evaluate(context: RunContext, renderer: Renderer, load: Callable[[], Generate]) -> RunOutput:
    """Run an evaluation order.

    Args:
        context: The run.
        renderer: Tokenizer and template of the model.
        load: Loads the model, once every row was read.

    Raises:
        RunStopped: the run was asked to stop; an evaluation keeps nothing half-done.
        TunefleetError: DATA_INVALID, FIELD_INVALID, and what loading raises.
    """
    spec = context.order.resolved_spec
    wanted = wanted_metrics(spec.spec.evaluate)
    questions = _questions(spec, renderer)
    generate = load()
    context.enter(RunPhase.RUN_PHASE_WORKING)
    answers = list(_answers(context, renderer, questions, generate))
    found = scores([answer.score for answer in answers], wanted)
    _write(context, answers, found)
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_EVALUATION, scores=found)


def _questions(spec: ResolvedSpec, renderer: Renderer) -> list[_Question]:
    evaluate = spec.spec.evaluate
    count = evaluate.example_count if evaluate.HasField("example_count") else _DEFAULT_EXAMPLES
    examples = [row for data in data_of_role(spec, "examples") for row in read_rows(data.path)][:count]
    shots = [message for row in examples for message in row.as_chat() if message["role"] != "system"]
    return [
        _question(data.path, row, shots, renderer)
        for data in data_of_role(spec, "evaluate")
        for row in read_rows(data.path)
    ]


def _question(path: str, row: Row, shots: Sequence[Mapping[str, object]], renderer: Renderer) -> _Question:
    chat = row.as_chat()
    last = max(turn for turn, message in enumerate(chat) if message["role"] == "assistant")
    asked = chat[:last]
    system = 1 if asked and asked[0]["role"] == "system" else 0
    try:
        prompt = renderer.prompt([*asked[:system], *shots, *asked[system:]], row.tools)
        right = _right(row, last, renderer)
    except TemplateRefusedError as error:
        raise TunefleetError(
            Reason.DATA_INVALID,
            f"{Path(path).name}:{row.line}: messages: the chat template does not take them: {error}",
            hint=f"Correct the roles and their order on line {row.line} of {path}.",
            metadata={"path": path, "line": str(row.line), "field": "messages"},
            violations=(FieldViolation(field="messages", description=str(error)),),
        ) from error
    text = str(asked[-1]["content"]) if asked else ""
    return _Question(line=row.line, text=text, prompt=prompt, right=right)


def _right(row: Row, last: int, renderer: Renderer) -> str:
    """Return the right answer as the model would write it: tool calls in the template's own words."""
    message = row.messages[last]
    if not message.tool_calls and not message.reasoning_content:
        return message.content
    rendered = renderer.row(row.as_chat()[: last + 1], row.tools)
    if not any(rendered.mask):
        return message.content  # the template marks no answers
    end = max(index for index, is_trained in enumerate(rendered.mask) if is_trained) + 1
    start = next((index for index in range(end, 0, -1) if not rendered.mask[index - 1]), 0)
    stops = set(renderer.template.stop_token_ids)
    ids = _until_stop(rendered.input_ids[start:end], stops)
    return str(renderer.tokenizer.decode(ids, skip_special_tokens=True))


def _answers(
    context: RunContext, renderer: Renderer, questions: Sequence[_Question], generate: Generate
) -> Iterator[_Answer]:
    spec = context.order.resolved_spec.spec.evaluate
    size = spec.batch_size or _DEFAULT_BATCH
    most = spec.max_new_tokens or _DEFAULT_NEW_TOKENS
    stops = list(renderer.template.stop_token_ids) or [renderer.tokenizer.eos_token_id]
    matches = done = tokens = 0
    start = time.monotonic()
    for first in range(0, len(questions), size):
        batch = questions[first : first + size]
        written = generate([question.prompt for question in batch], most, stops)
        for question, every in zip(batch, written, strict=True):
            ids = _until_stop(every, set(stops))
            given = str(renderer.tokenizer.decode(ids, skip_special_tokens=True))
            answer = _Answer(question=question, given=given, score=score_row(question.right, given))
            matches, tokens = matches + int(answer.score.exact_match), tokens + len(ids)
            yield answer
        done += len(batch)
        metrics = Metrics(step=done, total_steps=len(questions), tokens=tokens)
        metrics.tokens_per_second = tokens / max(time.monotonic() - start, 1e-9)
        metrics.extra["exact_match"] = matches / done
        context.metrics(metrics)


def _until_stop(ids: list[int], stops: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def _write(context: RunContext, answers: Sequence[_Answer], found: Sequence[Score]) -> None:
    with context.writing_output() as folder:
        with (folder / "answers.jsonl").open("w", encoding="utf-8") as file:
            for answer in answers:
                question = answer.question
                row = {
                    "line": question.line,
                    "question": question.text,
                    "right": question.right,
                    "given": answer.given,
                    **asdict(answer.score),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        table = [
            json_format.MessageToDict(
                score, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for score in found
        ]
        for score in table:
            score["rows"] = int(score["rows"])  # proto JSON spells 64-bit integers as text
        (folder / "scores.json").write_text(json.dumps({"scores": table}, indent=1) + "\n", encoding="utf-8")
