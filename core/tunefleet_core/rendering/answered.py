"""Render rows of any method: each into one or more conversations whose answer carries the loss.

A conversation that ends with the answer is rendered as for supervised training, by the same
renderer and template, and its mask is then cut to what follows the prompt: earlier turns of the
assistant are given, not judged. Plain texts have no turns: no template, and loss on everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from tunefleet_core.data import (
    COMPLETIONS,
    TEXTS,
    CompletionRow,
    LabelledRow,
    PairRow,
    Row,
    form_of_method,
    read_completions,
    read_labelled,
    read_pairs,
    read_prompts,
    read_rows,
    read_texts,
    supervised_form,
)
from tunefleet_core.rendering.renderer import RenderedRow, Renderer, TemplateRefusedError
from tunefleet_core.rendering.rows import refuse_template, render_rows
from tunefleet_core.rendering.shown import held, require_shown, shown_by

__all__ = ["Answer", "AnsweredRow", "answered_rows", "first_prompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A rendered conversation of a row.

    Attributes:
        part: `chosen`, `rejected`, `good` or `bad`; empty where a row has one conversation only.
        row: Its turns; none if it is plain text.
        rendered: Its tokens; the mask is 1 where the answer carries loss.
        prompt_tokens: How many tokens stand before the answer; 0 where all turns are trained.
        first_turn: The turn that the answer begins with; 0 where all turns are trained.
        fields: What rewards may look at, where the model writes the answer; None: the row has it.
    """

    part: str
    row: Row
    rendered: RenderedRow
    prompt_tokens: int = 0
    first_turn: int = 0
    fields: Mapping[str, object] | None = None

    @property
    def has_loss(self) -> bool:
        """Whether any token carries loss, or will. The first one is never predicted."""
        return self.fields is not None or any(self.rendered.mask[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRow:
    """A row with its conversations and the line it stands on."""

    line: int
    answers: tuple[Answer, ...]
    path: str = ""
    """Its file, where that is known."""

    @property
    def length(self) -> int:
        """Tokens of the longest conversation."""
        return max(len(answer.rendered.input_ids) for answer in self.answers)

    @property
    def has_equal_answers(self) -> bool:
        """Whether several answers are the same, so that nothing tells them apart."""
        first, *others = (answer.rendered.input_ids for answer in self.answers)
        return any(first == other for other in others)

    @property
    def teaches(self) -> bool:
        """Whether the row can move a weight: every answer carries loss, and they differ."""
        return all(answer.has_loss for answer in self.answers) and not self.has_equal_answers


def answered_rows(method: str, path: str, renderer: Renderer) -> Iterator[AnsweredRow]:
    """Yield the rows of a file, read and rendered as a method takes them; empty: conversations, to score.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    form = supervised_form(path).name if method == "sft" else form_of_method(method).name
    if form == "preferences":
        yield from _pairs(path, renderer)
    elif form == "labelled answers":
        yield from _labelled(path, renderer)
    elif form == "prompts":
        yield from _prompts(path, renderer)
    elif form == COMPLETIONS.name:
        yield from _completions(path, renderer)
    elif form == TEXTS.name:
        for text in read_texts(path):
            row = Row(line=text.line, messages=())
            yield AnsweredRow(
                line=text.line, answers=(Answer(part="", row=row, rendered=renderer.plain(text.text)),)
            )
    else:
        for row, rendered in render_rows(path, read_rows(path), renderer):
            yield AnsweredRow(line=row.line, answers=(Answer(part="", row=row, rendered=rendered),))


def first_prompt(method: str, path: str, renderer: Renderer) -> tuple[int, list[int]]:
    """Return the line of the first row, and what a server would send to get its first answer.

    Raises:
        TemplateRefusedError: the template does not take the question alone.
    """
    if method == "sft" and supervised_form(path) is TEXTS:
        text = next(read_texts(path))
        ids = renderer.plain(text.text).input_ids
        return text.line, ids[: max(1, len(ids) // 2)]
    row = _first_question(method, path)
    return row.line, renderer.prompt(row.as_chat(), row.tools)


def _first_question(method: str, path: str) -> Row:
    """Return the turns of the first row up to its first answer."""
    form = form_of_method(method).name
    if form == "preferences":
        pair = next(read_pairs(path))
        return Row(line=pair.line, messages=pair.prompt, tools=pair.tools)
    if form == "labelled answers":
        labelled = next(read_labelled(path))
        return Row(line=labelled.line, messages=labelled.prompt, tools=labelled.tools)
    if form == "prompts":
        asking = next(read_prompts(path))
        return Row(line=asking.line, messages=asking.prompt, tools=asking.tools)
    if method == "sft" and supervised_form(path) is COMPLETIONS:
        answered = next(read_completions(path))
        return Row(line=answered.line, messages=answered.prompt, tools=answered.tools)
    row = next(read_rows(path))
    asked = next(turn for turn, message in enumerate(row.messages) if message.role == "assistant")
    return replace(row, messages=row.messages[:asked])


def _pairs(path: str, renderer: Renderer) -> Iterator[AnsweredRow]:
    # Rows are kept beside the renderer, which takes many at once.
    rows: list[PairRow] = []

    def both() -> Iterable[Row]:
        for pair in read_pairs(path):
            rows.append(pair)
            yield from (pair.chosen_row, pair.rejected_row)

    rendered = render_rows(path, both(), renderer)
    for (chosen, one), (rejected, other) in zip(rendered, rendered, strict=True):
        pair = rows.pop(0)
        first = len(pair.prompt)
        prompt = _prompt(renderer, pair)
        yield AnsweredRow(
            line=pair.line,
            answers=(
                _answer("chosen", chosen, one, prompt, first),
                _answer("rejected", rejected, other, prompt, first),
            ),
        )


def _labelled(path: str, renderer: Renderer) -> Iterator[AnsweredRow]:
    rows: list[LabelledRow] = []

    def conversations() -> Iterable[Row]:
        for labelled in read_labelled(path):
            rows.append(labelled)
            yield labelled.row

    for row, rendered in render_rows(path, conversations(), renderer):
        labelled = rows.pop(0)
        part = "good" if labelled.is_good else "bad"
        answer = _answer(part, row, rendered, _prompt(renderer, labelled), len(labelled.prompt))
        yield AnsweredRow(line=labelled.line, answers=(answer,))


def _completions(path: str, renderer: Renderer) -> Iterator[AnsweredRow]:
    rows: list[CompletionRow] = []

    def conversations() -> Iterable[Row]:
        for completion in read_completions(path):
            rows.append(completion)
            yield completion.row

    for row, rendered in render_rows(path, conversations(), renderer):
        completion = rows.pop(0)
        if renderer.trains_everything:
            answer = Answer(part="", row=row, rendered=rendered)
        else:
            prompt = _prompt(renderer, completion)
            answer = _answer("", row, rendered, prompt, len(completion.prompt))
        yield AnsweredRow(line=row.line, answers=(answer,))


def _prompts(path: str, renderer: Renderer) -> Iterator[AnsweredRow]:
    shown: frozenset[str] | None = None
    for asking in read_prompts(path):
        row = Row(line=asking.line, messages=asking.prompt, tools=asking.tools)
        words = frozenset(word for word, _ in held(row))
        if words:
            shown = shown_by(renderer) if shown is None else shown
            require_shown(path, row, shown)
        try:
            ids = renderer.prompt(row.as_chat(), row.tools)
        except TemplateRefusedError as error:
            refuse_template(path, row, error, field="prompt")
        rendered = RenderedRow(input_ids=ids, mask=[0] * len(ids), holds=words)
        answer = Answer(
            part="",
            row=row,
            rendered=rendered,
            prompt_tokens=len(ids),
            first_turn=len(row.messages),
            fields=asking.fields,
        )
        yield AnsweredRow(line=row.line, answers=(answer,))


def _prompt(renderer: Renderer, row: PairRow | LabelledRow | CompletionRow) -> list[int]:
    try:
        return renderer.prompt([message.as_chat() for message in row.prompt], row.tools)
    except TemplateRefusedError:
        return []  # the whole conversation is taken; the audit says that it could not be served


def _answer(part: str, row: Row, rendered: RenderedRow, prompt: list[int], first_turn: int) -> Answer:
    """Cut the mask of a conversation to its answer, which begins where it leaves the prompt."""
    pairs = zip(prompt, rendered.input_ids, strict=False)
    most = min(len(prompt), len(rendered.input_ids))
    start = next((at for at, (one, other) in enumerate(pairs) if one != other), most)
    mask = [0] * start + rendered.mask[start:]
    return Answer(
        part=part,
        row=row,
        rendered=replace(rendered, mask=mask),
        prompt_tokens=start,
        first_turn=first_turn,
    )
