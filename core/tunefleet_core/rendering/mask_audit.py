"""The mask audit: what training would see, found with the tokenizer alone, before any weight is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder, AuditResult, FileAudit, RewardFile
from tunefleet.dataset.v1.audit_pb2 import (
    LengthCount,
    MaskAudit,
    MaskedRow,
    MaskedSpan,
    PrefixBreak,
    ReferenceTokens,
)
from tunefleet_core.chat_endpoint import secret_of
from tunefleet_core.data import Row, file_digest
from tunefleet_core.data.place import Place
from tunefleet_core.parity import REFERENCE_CONVERSATIONS, reference_prompts
from tunefleet_core.rendering.answered import AnsweredRow
from tunefleet_core.rendering.once import renderer_of, rows_of_file
from tunefleet_core.rendering.prefix_breaks import breaks_of_rows, prefix_breaks
from tunefleet_core.rendering.renderer import RenderedRow, Renderer, TemplateRefusedError
from tunefleet_core.rendering.same_ids import require_same_ids
from tunefleet_core.rendering.scoring import require_fields, scorers_of
from tunefleet_core.rendering.shown import has_left_out_thoughts, reference_needs
from tunefleet_core.rendering.template_equality import template_difference
from tunefleet_core.rewards import NamedScorer

__all__ = ["audit"]

_SHOWN_ROWS = 3
_CHECKED_ROWS = 200
"""Plain rows whose every turn is also rendered as a prompt; templates break on all of them or on none."""
_CHECKED_ROWS_WITH_MORE = 2000
"""The same of rows with tools or thoughts, where it depends on what a row holds."""
_SHOWN_BREAKS = 20
_CHECKED_AT_ONCE = 64


def audit(order: AuditOrder) -> AuditResult:
    """Tokenise the rows of every file and report the loss mask.

    Raises:
        TunefleetError: DATA_INVALID naming file, line and field; BASE_INVALID for a
            folder without a usable tokenizer.
    """
    renderer = renderer_of(order.base, order.chat_template, loss_on=order.loss_on)
    scorers = scorers_of(order.method, order.rewards)
    secret_of(order.endpoint.api_key, field="train.method.distill.teacher.endpoint.api_key")
    for companion in order.companions:
        require_same_ids(renderer.tokenizer, companion)
    files: list[FileAudit] = []
    held_by_all: set[str] = set()
    for file in order.files:
        sha256 = file_digest(file.path)
        rows = rows_of_file(order.method, file.path, renderer, sha256=sha256)
        mask, held = _audit_file(file, rows, renderer, order, scorers)
        files.append(FileAudit(file=file, sha256=sha256, mask=mask))
        held_by_all |= held
    code = [path for item in scorers for path in item.scorer.files]
    return AuditResult(
        files=files,
        reward_files=[RewardFile(path=path, sha256=file_digest(path)) for path in code],
        template_difference=template_difference(
            renderer, order.must_match_template, held=reference_needs(held_by_all)
        ),
    )


def _audit_file(
    file: AuditFile,
    rows: Iterable[AnsweredRow],
    renderer: Renderer,
    order: AuditOrder,
    scorers: Sequence[NamedScorer],
) -> tuple[MaskAudit, set[str]]:
    """Return what training would see of a file, and what its rows hold beside plain turns."""
    result = MaskAudit()
    lengths: list[int] = []
    taught: list[int] = []
    ends_trained: list[bool] = []
    held: set[str] = set()
    breaks: list[PrefixBreak] = []
    to_check: list[AnsweredRow] = []
    for count, answered in enumerate(rows):
        lengths.append(answered.length)
        if answered.teaches:
            taught.append(answered.length)
        require_fields(file.path, answered, scorers)
        if order.HasField("endpoint"):
            _require_no_tools(file.path, answered)
        _count_answers(result, answered)
        result.rows_over_long += 0 < order.max_length < answered.length
        for answer in answered.answers:
            if answer.row.messages:  # a text is no answer
                ends_trained.append(_ends_are_trained(answer.rendered, renderer.template.stop_token_ids))
            held |= answer.rendered.holds
            if count < _SHOWN_ROWS:
                spans = _spans(answer.rendered, renderer)
                result.first_rows.append(MaskedRow(line=answered.line, spans=spans, part=answer.part))
        result.rows_of_text += not answered.answers[0].row.messages
        _count_thoughts_and_tools(result, answered.answers[0].row, renderer)
        has_more = any(answer.rendered.holds for answer in answered.answers)
        if count < _CHECKED_ROWS or (has_more and count < _CHECKED_ROWS_WITH_MORE):
            to_check.append(answered)
        if len(to_check) == _CHECKED_AT_ONCE:
            _count_breaks(result, breaks, renderer, to_check)
            to_check.clear()
    _count_breaks(result, breaks, renderer, to_check)
    needs = reference_needs(held)
    result.references.extend(_references(renderer, needs))
    result.prefix_breaks.extend([*breaks, *_reference_breaks(renderer, needs)][:_SHOWN_BREAKS])
    result.rows = len(lengths)
    result.end_of_turn_trained = all(ends_trained)
    result.length_percentiles.extend(_percentiles(lengths))
    if order.packing:
        result.lengths.extend(
            LengthCount(tokens=tokens, rows=rows) for tokens, rows in sorted(Counter(taught).items())
        )
    return result, held


def _require_no_tools(path: str, row: AnsweredRow) -> None:
    """Refuse a prompt with tools for a teacher behind an endpoint, which is asked for words alone."""
    if any(answer.row.has_tools for answer in row.answers):
        Place(path=Path(path), line=row.line).refuse(
            "tools",
            "a teacher behind an endpoint is not sent tools, so its answer would call none",
            hint="Leave rows with tools out, or name a teacher.model that is read beside the one it teaches.",
        )


def _count_answers(result: MaskAudit, row: AnsweredRow) -> None:
    for answer in row.answers:
        result.tokens += len(answer.rendered.input_ids)
        result.trained_tokens += answer.rendered.trained_tokens
        result.rows_labelled_good += answer.part == "good"
    result.rows_without_loss += not row.teaches
    if row.has_equal_answers:
        result.rows_with_equal_answers += 1
        result.first_line_with_equal_answers = result.first_line_with_equal_answers or row.line


def _count_breaks(
    result: MaskAudit, breaks: list[PrefixBreak], renderer: Renderer, rows: Sequence[AnsweredRow]
) -> None:
    """Check rows as prompts, and keep the first breaks of all."""
    result.rows_checked_as_prompts += len(rows)
    for found in breaks_of_rows(renderer, rows):
        result.rows_with_prefix_breaks += bool(found)
        breaks.extend(found[: _SHOWN_BREAKS - len(breaks)])


def _count_thoughts_and_tools(result: MaskAudit, row: Row, renderer: Renderer) -> None:
    result.rows_with_tools += row.has_tools
    result.rows_with_thoughts += row.has_thoughts
    if row.has_thoughts and has_left_out_thoughts(row, renderer):
        result.rows_with_thoughts_left_out += 1
        result.first_line_with_thoughts_left_out = result.first_line_with_thoughts_left_out or row.line


def _spans(row: RenderedRow, renderer: Renderer) -> Iterator[MaskedSpan]:
    pairs = zip(row.mask, row.input_ids, strict=True)
    for is_trained, group in groupby(pairs, key=lambda pair: bool(pair[0])):
        yield MaskedSpan(text=renderer.text([token for _, token in group]), is_trained=is_trained)


def _ends_are_trained(row: RenderedRow, stop_token_ids: Sequence[int]) -> bool:
    """Return whether every trained stretch teaches the model to stop. True for a row without any."""
    stops = set(stop_token_ids)
    pairs = zip(row.mask, row.input_ids, strict=True)
    return all(
        any(token in stops for _, token in group)
        for is_trained, group in groupby(pairs, key=lambda pair: pair[0])
        if is_trained
    )


def _percentiles(lengths: Sequence[int]) -> list[int]:
    """Return the 50th, 95th and 100th percentile: the smallest length that so many rows do not exceed."""
    ordered = sorted(lengths)
    return [ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 95, 100)]


def _references(renderer: Renderer, needs: Collection[str]) -> Iterator[ReferenceTokens]:
    for prompt in reference_prompts(needs):
        try:
            ids = renderer.prompt(prompt.messages, prompt.tools)
        except TemplateRefusedError:
            continue  # a template may refuse a role; then no server can be sent it either
        yield ReferenceTokens(
            messages_json=json.dumps(prompt.messages, ensure_ascii=False),
            tools_json=json.dumps(prompt.tools, ensure_ascii=False) if prompt.tools else "",
            prompt_token_ids=ids,
        )


def _reference_breaks(renderer: Renderer, needs: Collection[str]) -> Iterator[PrefixBreak]:
    for conversation in REFERENCE_CONVERSATIONS:
        if conversation.needs and not conversation.needs <= set(needs):
            continue
        chat, tools = conversation.messages, conversation.tools
        try:
            rendered = renderer.row(chat, tools)
        except TemplateRefusedError:
            continue
        yield from prefix_breaks(renderer, chat, rendered, line=0, tools=tools)
