"""Read rows of a prompt and what follows: an answer, one with a label, a chosen and a rejected one, or
nothing, where answers are scored.

The fields are those of the conversational datasets on the Hub. `prompt` is a list of turns, or the
text of one user turn; an answer is a list of turns, one turn, or the text of one assistant turn.
Pairs may leave `prompt` out and write the whole conversation twice; then the turns that both
begin with are the prompt. Rows of OpenAI's fine-tuning API are read as the same (`openai_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tunefleet_core.data.forms import COMPLETIONS, LABELLED, PAIRS, PROMPTS, Form, require_form
from tunefleet_core.data.json_text import check_value
from tunefleet_core.data.lines import read_objects
from tunefleet_core.data.messages import Message, read_message
from tunefleet_core.data.openai_rows import as_pair, as_prompt
from tunefleet_core.data.place import Place, kind_of
from tunefleet_core.data.rows import Row
from tunefleet_core.data.tools import Tool, read_tools
from tunefleet_core.data.turns import check_turns

__all__ = [
    "CompletionRow",
    "LabelledRow",
    "PairRow",
    "PromptRow",
    "read_completions",
    "read_labelled",
    "read_pairs",
    "read_prompts",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """A prompt with a chosen and a rejected answer, its tools, and its line, counted from 1."""

    line: int
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()

    @property
    def chosen_row(self) -> Row:
        """The conversation that ends with the chosen answer."""
        return Row(line=self.line, messages=self.prompt + self.chosen, tools=self.tools)

    @property
    def rejected_row(self) -> Row:
        """The conversation that ends with the rejected answer."""
        return Row(line=self.line, messages=self.prompt + self.rejected, tools=self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRow:
    """A prompt with one answer that is good or not, its tools, and its line, counted from 1."""

    line: int
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    is_good: bool
    tools: tuple[Tool, ...] = ()

    @property
    def row(self) -> Row:
        """The conversation that ends with the answer."""
        return Row(line=self.line, messages=self.prompt + self.completion, tools=self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRow:
    """A prompt with its answer, its tools, and its line, counted from 1."""

    line: int
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()

    @property
    def row(self) -> Row:
        """The conversation that ends with the answer."""
        return Row(line=self.line, messages=self.prompt + self.completion, tools=self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """A prompt to be answered, what rewards may look at, its tools, and its line, counted from 1."""

    line: int
    prompt: tuple[Message, ...]
    fields: Mapping[str, object]
    tools: tuple[Tool, ...] = ()


def read_pairs(path: Path | str) -> Iterator[PairRow]:
    """Yield the rows of a JSONL file of preferences, in order.

    Raises:
        TunefleetError: DATA_INVALID at the first wrong row, as `train.jsonl:17: chosen: ...`,
            and for a missing or empty file.

    Example:
        >>> for row in read_pairs("pairs.jsonl"):  # doctest: +SKIP
        ...     print(row.line, row.chosen[-1].content, row.rejected[-1].content)
    """
    for place, value in read_objects(path, shape=PAIRS.shape):
        yield _pair(place, as_pair(value))


def read_labelled(path: Path | str) -> Iterator[LabelledRow]:
    """Yield the rows of a JSONL file of labelled answers, in order.

    Raises:
        TunefleetError: DATA_INVALID at the first wrong row, as `train.jsonl:17: label: ...`,
            and for a missing or empty file.
    """
    for place, value in read_objects(path, shape=LABELLED.shape):
        yield _labelled(place, value)


def read_completions(path: Path | str) -> Iterator[CompletionRow]:
    """Yield the rows of a JSONL file of questions with answers, in order.

    Raises:
        TunefleetError: DATA_INVALID at the first wrong row, as `train.jsonl:17: completion: ...`,
            and for a missing or empty file.
    """
    for place, value in read_objects(path, shape=COMPLETIONS.shape):
        require_form(place, value, COMPLETIONS)
        prompt, completion, tools = _answered(place, value, COMPLETIONS)
        yield CompletionRow(line=place.line, prompt=prompt, completion=completion, tools=tools)


def read_prompts(path: Path | str) -> Iterator[PromptRow]:
    """Yield the rows of a JSONL file of prompts, in order; every other field is kept for rewards.

    Raises:
        TunefleetError: DATA_INVALID at the first wrong row, as `train.jsonl:17: prompt: ...`,
            and for a missing or empty file.
    """
    for place, row in read_objects(path, shape=PROMPTS.shape):
        value, asked = as_prompt(row), "prompt" if "prompt" in row else "messages"
        require_form(place, value, PROMPTS)
        prompt = _turns(place, asked, value["prompt"], text_is="user", form=PROMPTS)
        if prompt[-1].role == "assistant":
            place.refuse(
                f"{asked}[{len(prompt) - 1}].role",
                "is 'assistant': a prompt ends with what is to be answered.",
                hint="Remove that turn.",
            )
        tools = read_tools(place, value.get("tools"))
        check_turns(place, prompt, tools, fields=[f"{asked}[{at}]" for at in range(len(prompt))])
        fields = {name: item for name, item in value.items() if name not in ("prompt", "tools")}
        for name, item in fields.items():
            check_value(place, name, item)
        yield PromptRow(line=place.line, prompt=prompt, fields=fields, tools=tools)


def _pair(place: Place, value: Mapping[str, object]) -> PairRow:
    require_form(place, value, PAIRS)
    chosen = _turns(place, "chosen", value["chosen"], text_is="assistant", form=PAIRS)
    rejected = _turns(place, "rejected", value["rejected"], text_is="assistant", form=PAIRS)
    start = 0
    if value.get("prompt") is None:
        prompt = chosen[: (start := _shared(chosen, rejected))]
        if not prompt:
            place.refuse(
                "prompt", "is missing, and the two answers begin with different turns.", hint=PAIRS.shape
            )
        chosen, rejected = chosen[start:], rejected[start:]
    else:
        prompt = _turns(place, "prompt", value["prompt"], text_is="user", form=PAIRS)
    tools = read_tools(place, value.get("tools"))
    # Without a prompt of its own, each answer counts its turns from the start of the conversation.
    asked = "chosen" if start else "prompt"
    _check(place, (asked, prompt), ("chosen", chosen, start), tools, PAIRS)
    _check(place, (asked, prompt), ("rejected", rejected, start), tools, PAIRS)
    return PairRow(line=place.line, prompt=prompt, chosen=chosen, rejected=rejected, tools=tools)


def _labelled(place: Place, value: Mapping[str, object]) -> LabelledRow:
    require_form(place, value, LABELLED)
    label = value["label"]
    if not isinstance(label, bool):
        place.refuse("label", f"must be true or false, got {kind_of(label)}.", hint=LABELLED.shape)
    prompt, completion, tools = _answered(place, value, LABELLED)
    return LabelledRow(line=place.line, prompt=prompt, completion=completion, is_good=label, tools=tools)


def _answered(
    place: Place, value: Mapping[str, object], form: Form
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Tool, ...]]:
    prompt = _turns(place, "prompt", value["prompt"], text_is="user", form=form)
    completion = _turns(place, "completion", value["completion"], text_is="assistant", form=form)
    tools = read_tools(place, value.get("tools"))
    _check(place, ("prompt", prompt), ("completion", completion, 0), tools, form)
    return prompt, completion, tools


def _turns(place: Place, field: str, value: object, *, text_is: str, form: Form) -> tuple[Message, ...]:
    """Return the turns that a field means: a list of them, one of them, or the text of one."""
    if isinstance(value, str):
        return (read_message(place, field, {"role": text_is, "content": value}),)
    if isinstance(value, dict):
        return (read_message(place, field, cast("object", value)),)
    if not isinstance(value, list):
        place.refuse(
            field, f"must be a list of turns, one turn or a text, got {kind_of(value)}.", hint=form.shape
        )
    items = cast("list[object]", value)
    if not items:
        place.refuse(field, "is an empty list.", hint=form.shape)
    return tuple(read_message(place, f"{field}[{index}]", item) for index, item in enumerate(items))


def _shared(one: tuple[Message, ...], other: tuple[Message, ...]) -> int:
    """Return how many turns two conversations begin with alike; an answer is left to each."""
    most = min(len(one), len(other)) - 1
    return next((at for at in range(most) if one[at] != other[at]), max(0, most))


def _check(
    place: Place,
    prompt: tuple[str, tuple[Message, ...]],
    answer: tuple[str, tuple[Message, ...], int],
    tools: tuple[Tool, ...],
    form: Form,
) -> None:
    """Refuse a prompt that answers itself, and an answer in which another than the assistant speaks."""
    asked, asked_turns = prompt
    field, turns, start = answer
    if asked_turns[-1].role == "assistant":
        place.refuse(
            f"{asked}[{len(asked_turns) - 1}].role",
            "is 'assistant': a prompt ends with what is to be answered.",
            hint=f"Put that turn into '{field}', or remove it.",
        )
    fields = [f"{asked}[{at}]" for at in range(len(asked_turns))]
    fields += [f"{field}[{at + start}]" for at in range(len(turns))]
    allowed = ("assistant", "tool")
    for name, turn in zip(fields[len(asked_turns) :], turns, strict=True):
        if turn.role not in allowed:
            place.refuse(
                f"{name}.role",
                f"is '{turn.role}': in an answer only the assistant speaks, and tools it called.",
                hint="Put the turns of others into 'prompt'.",
            )
    if turns[0].role != "assistant" or turns[-1].role != "assistant":
        place.refuse(field, "must begin and end with a turn of the assistant.", hint=form.shape)
    check_turns(place, [*asked_turns, *turns], tools, fields=fields)
