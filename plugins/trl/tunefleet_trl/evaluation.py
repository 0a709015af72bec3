"""Score a base or an adapter: greedy answers to held-out prompts, against the right ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from google.protobuf import json_format
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.run_pb2 import RunOutput, StopMode
from tunefleet.job.v1.event_pb2 import Metrics, RunPhase
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import EvaluateSpec
from tunefleet.job.v1.state_pb2 import Score
from tunefleet_core.backend import RunContext, RunStopped
from tunefleet_core.data import Row, read_rows
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError
from tunefleet_core.rendering import Renderer, TemplateRefusedError, data_of_role, load_tokenizer
from tunefleet_trl.loading import load_adapter, load_base, prepare_hardware
from tunefleet_trl.scoring import METRICS, RowScore, score_row, scores

__all__ = ["evaluate"]

_DEFAULT_EXAMPLES = 3
_DEFAULT_NEW_TOKENS = 128
_DEFAULT_BATCH = 32


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


def evaluate(context: RunContext) -> RunOutput:
    """Run an evaluation order.

    Raises:
        RunStopped: the run was asked to stop; an evaluation keeps nothing half-done.
        TunefleetError: DATA_INVALID, BASE_INVALID, FIELD_INVALID.
    """
    spec = context.order.resolved_spec
    wanted = _metrics(spec.spec.evaluate)
    context.enter(RunPhase.RUN_PHASE_LOADING)
    hardware = prepare_hardware(context.order, dtype="")
    renderer = Renderer(load_tokenizer(spec.base), spec.chat_template)
    questions = _questions(spec, renderer)
    model = load_base(spec.base, hardware)
    if context.order.adapter_dir:
        model = load_adapter(model, context.order.adapter_dir)
    model.eval()
    context.enter(RunPhase.RUN_PHASE_WORKING)
    answers = list(_answers(context, model, renderer, questions))
    found = scores([answer.score for answer in answers], wanted)
    _write(context, answers, found)
    return RunOutput(kind=ArtifactKind.ARTIFACT_KIND_EVALUATION, scores=found)


def _metrics(spec: EvaluateSpec) -> list[str]:
    for metric in spec.metrics:
        if metric not in METRICS:
            raise TunefleetError.field(
                "evaluate.metrics", f"'{metric}' is no metric; there are {', '.join(METRICS)}"
            )
    return list(spec.metrics) or list(METRICS)


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
    context: RunContext, model: Any, renderer: Renderer, questions: Sequence[_Question]
) -> Iterator[_Answer]:
    spec = context.order.resolved_spec.spec.evaluate
    size = spec.batch_size or _DEFAULT_BATCH
    matches = done = tokens = 0
    start = time.monotonic()
    for first in range(0, len(questions), size):
        batch = questions[first : first + size]
        for question, ids in zip(batch, _generate(context, model, renderer, batch), strict=True):
            given = renderer.tokenizer.decode(ids, skip_special_tokens=True)
            answer = _Answer(question=question, given=given, score=score_row(question.right, given))
            matches, tokens = matches + int(answer.score.exact_match), tokens + len(ids)
            yield answer
        done += len(batch)
        metrics = Metrics(step=done, total_steps=len(questions), tokens=tokens)
        metrics.tokens_per_second = tokens / max(time.monotonic() - start, 1e-9)
        metrics.extra["exact_match"] = matches / done
        context.metrics(metrics)


@torch.inference_mode()
def _generate(
    context: RunContext, model: Any, renderer: Renderer, batch: Sequence[_Question]
) -> list[list[int]]:
    """Return the new tokens of each prompt, cut before the token that ends the answer.

    Prompts are padded on the left, so that all continue at the same position.
    """
    spec = context.order.resolved_spec.spec.evaluate
    stops = list(renderer.template.stop_token_ids) or [renderer.tokenizer.eos_token_id]
    pad = renderer.tokenizer.pad_token_id
    width = max(len(question.prompt) for question in batch)
    ids = torch.tensor([[pad] * (width - len(q.prompt)) + q.prompt for q in batch], device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(q.prompt)) + [1] * len(q.prompt) for q in batch], device=model.device
    )
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=spec.max_new_tokens or _DEFAULT_NEW_TOKENS,
        eos_token_id=stops,
        pad_token_id=pad,
        use_cache=True,
    )
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([_RunStop(context)]),
    )
    return [_until_stop(row, set(stops)) for row in output[:, width:].tolist()]


def _until_stop(ids: list[int], stops: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


class _RunStop(StoppingCriteria):
    """Ends a generation at the next token when the run is asked to stop."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if self._context.stop_requested() != StopMode.STOP_MODE_UNSPECIFIED:
            raise RunStopped("stopped while it answered")
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


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
