"""Whether two chat templates are the same to a model: the same ids on the reference conversations.

One difference is allowed on purpose. A template that drops the thoughts of earlier answers
renders an answer in one form when it is trained and in another when it is history; a family
that keeps one form differs from it in empty thoughts, and in nothing else, wherever there
are earlier answers; thoughts that the one keeps there and the other drops are no difference
either. Conversations with one answer have to agree to the id.

Tools and thoughts are compared where the rows hold any.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet_core.parity import REFERENCE_CONVERSATIONS, ReferenceConversation
from tunefleet_core.rendering.renderer import Renderer, TemplateRefusedError

__all__ = ["template_difference"]

_MODES: tuple[Mapping[str, object], ...] = ({}, {"enable_thinking": False})
"""Ways in which a server may call a model's own template. One of them has to fit throughout."""
_SHOWN_TOKENS = 8
_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_BLANK_LINES = re.compile(r"\n+")


def template_difference(renderer: Renderer, other_text: str, *, held: Collection[str] = ()) -> str:
    """Say how another template differs; empty if it does not, or if there is no other.

    Compared are the ids of whole conversations and of the prompt of every answer. Where a
    template refuses a conversation, the other has to refuse it too.

    Args:
        renderer: Tokenizer and our template.
        other_text: The other template.
        held: What the rows hold, as reference conversations need it: `tools`, `thoughts`.
    """
    if not other_text or other_text == renderer.template.text:
        return ""
    other = ChatTemplate(text=other_text, frozen_time_seconds=renderer.template.frozen_time_seconds)
    differences: list[tuple[int, str]] = []
    for mode in _MODES:
        found = _first_difference(
            renderer, Renderer(renderer.tokenizer, other, loss_on="all", template_kwargs=mode), held
        )
        if found is None:
            return ""
        differences.append(found)
    # The mode that fits longest is the one meant; its first difference is the one worth knowing.
    return max(differences, key=lambda difference: difference[0])[1]


def _first_difference(ours: Renderer, theirs: Renderer, held: Collection[str]) -> tuple[int, str] | None:
    """Return how many renders were equal and how the next one differs; None if all are equal."""
    for count, (name, chat, is_prompt) in enumerate(_renders(held)):
        one, other = _ids(ours, chat, is_prompt=is_prompt), _ids(theirs, chat, is_prompt=is_prompt)
        if one == other:
            continue
        if _has_history(chat, is_prompt=is_prompt) and one is not None and other is not None:
            one, other = (_without_thoughts(ours, ids) for ids in (one, other))
        if one != other:
            return count, _sentence(ours, name, one, other)
    return None


def _has_history(chat: ReferenceConversation, *, is_prompt: bool) -> bool:
    answers = sum(message["role"] == "assistant" for message in chat.messages)
    return answers > (0 if is_prompt else 1)


def _without_thoughts(renderer: Renderer, ids: Sequence[int]) -> list[int]:
    """Return the ids of the same text without thoughts and without the blank lines around them."""
    text = _BLANK_LINES.sub("\n", _THOUGHT.sub("", renderer.text(ids)))
    return renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


def _renders(held: Collection[str]) -> Iterator[tuple[str, ReferenceConversation, bool]]:
    for index, conversation in enumerate(REFERENCE_CONVERSATIONS):
        if not conversation.needs <= set(held):
            continue
        for turn, prompt in conversation.prompts():
            yield f"the prompt of turn {turn} of reference conversation {index}", prompt, True
        yield f"reference conversation {index}", conversation, False


def _ids(renderer: Renderer, chat: ReferenceConversation, *, is_prompt: bool) -> list[int] | None:
    try:
        if is_prompt:
            return renderer.prompt(chat.messages, chat.tools)
        return renderer.row(chat.messages, chat.tools).input_ids
    except TemplateRefusedError:
        return None


def _sentence(renderer: Renderer, name: str, one: list[int] | None, other: list[int] | None) -> str:
    if one is None or other is None:
        who = "This template refuses" if one is None else "The other template refuses"
        return (
            f"{who} {name}, the other one does not." if one is None else f"{who} {name}, this one does not."
        )
    at = next(
        (index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )
    ours, theirs = (renderer.text(ids[at : at + _SHOWN_TOKENS]) for ids in (one, other))
    return f"The templates differ in {name} at token {at}: {ours!r} against {theirs!r}."
