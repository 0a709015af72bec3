"""Whether what a server sends for an answer is how the trained row begins.

A turn that is trained behind other tokens is trained in a context that no server ever produces.
Prompts of many rows are rendered together, as rows are: a call of the tokenizer costs more than a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from tunefleet.dataset.v1.audit_pb2 import PrefixBreak
from tunefleet_core.rendering.answered import AnsweredRow
from tunefleet_core.rendering.renderer import (
    ChatMessages,
    ChatTools,
    RenderedRow,
    Renderer,
    TemplateRefusedError,
)

__all__ = ["breaks_of_rows", "prefix_breaks"]

_SHOWN_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A turn of the assistant, and the conversation that it is trained in."""

    chat: ChatMessages
    tools: ChatTools
    row: RenderedRow
    line: int
    turn: int

    @property
    def prompt(self) -> ChatMessages:
        """The turns before it."""
        return self.chat[: self.turn]


def prefix_breaks(
    renderer: Renderer, chat: ChatMessages, row: RenderedRow, *, line: int, tools: ChatTools = ()
) -> Iterator[PrefixBreak]:
    """Yield the assistant turns whose served prompt is not the start of the trained row."""
    yield from _breaks(renderer, list(_answers(chat, tools, row, line=line)))


def breaks_of_rows(renderer: Renderer, rows: Sequence[AnsweredRow]) -> list[list[PrefixBreak]]:
    """Return the breaks of each row, at the turns that are trained; those of a prompt are only read."""
    answers: list[_Answer] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        for answer in row.answers:
            source = answer.row
            found = _answers(source.as_chat(), source.tools, answer.rendered, line=source.line)
            answers += (item for item in found if item.turn >= answer.first_turn)
        owners += [number] * (len(answers) - len(owners))
    breaks: list[list[PrefixBreak]] = [[] for _ in rows]
    for owner, found in zip(owners, _served_and_compared(renderer, answers), strict=True):
        if found is not None:
            breaks[owner].append(found)
    return breaks


def _answers(chat: ChatMessages, tools: ChatTools, row: RenderedRow, *, line: int) -> Iterator[_Answer]:
    for turn, message in enumerate(chat):
        if turn and message["role"] == "assistant":
            yield _Answer(chat=chat, tools=tools, row=row, line=line, turn=turn)


def _breaks(renderer: Renderer, answers: Sequence[_Answer]) -> Iterator[PrefixBreak]:
    return (found for found in _served_and_compared(renderer, answers) if found is not None)


def _served_and_compared(renderer: Renderer, answers: Sequence[_Answer]) -> Iterator[PrefixBreak | None]:
    """Yield for each answer where it leaves what is served, None if it does not."""
    # As text, not as objects: templates print keys in their order, which objects compare without.
    for _, group in groupby(answers, key=lambda answer: json.dumps(answer.tools) if answer.tools else ""):
        together = list(group)
        try:
            served = renderer.prompts([answer.prompt for answer in together], together[0].tools)
        except TemplateRefusedError:
            yield from (_alone(renderer, answer) for answer in together)
        else:
            pairs: Iterable[tuple[_Answer, list[int]]] = zip(together, served, strict=True)
            yield from (_break(renderer, answer, ids) for answer, ids in pairs)


def _alone(renderer: Renderer, answer: _Answer) -> PrefixBreak | None:
    try:
        served = renderer.prompt(answer.prompt, answer.tools)
    except TemplateRefusedError as error:
        why = f"[the template refuses this prompt: {error}]"
        return PrefixBreak(line=answer.line, turn=answer.turn, served=why)
    return _break(renderer, answer, served)


def _break(renderer: Renderer, answer: _Answer, served: list[int]) -> PrefixBreak | None:
    trained = answer.row.input_ids[: len(served)]
    if trained == served:
        return None
    at = next(
        (index for index, pair in enumerate(zip(trained, served, strict=False)) if pair[0] != pair[1]),
        len(trained),
    )
    start = max(0, at - _SHOWN_TOKENS // 2)
    return PrefixBreak(
        line=answer.line,
        turn=answer.turn,
        token_index=at,
        trained=renderer.text(answer.row.input_ids[start : at + _SHOWN_TOKENS]),
        served=renderer.text(served[start : at + _SHOWN_TOKENS]),
    )
