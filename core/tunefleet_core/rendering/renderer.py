"""Render conversations to token ids and loss masks, with the resolved template only.

The tokenizer folder's own template is never used: the resolved one is what the server
gets. Its clock is frozen, so that tomorrow's ids are today's.
"""

# transformers is in the environments of backends only.
# pyright: reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from tunefleet.job.v1.resolved_pb2 import ChatTemplate

__all__ = ["ChatMessages", "ChatTools", "RenderedRow", "Renderer", "TemplateRefusedError"]

ChatMessages = Sequence[Mapping[str, object]]
ChatTools = Sequence[Mapping[str, object]]


class TemplateRefusedError(Exception):
    """The chat template does not take a conversation; the text is the template's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedRow:
    """A row as the model sees it; `mask` is 1 where a token carries loss, else 0.

    `holds` are the words of `shown.held` for what the row holds beside plain turns; `path` and
    `line` say where it is from, where that is known.
    """

    input_ids: list[int]
    mask: list[int]
    holds: frozenset[str] = frozenset()
    path: str = ""
    line: int = 0

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that carry loss."""
        return sum(self.mask)

    def labels(self) -> list[int]:
        """Return the ids where they carry loss, -100 (ignored by the loss) elsewhere."""
        pairs = zip(self.input_ids, self.mask, strict=True)
        return [token if is_trained else -100 for token, is_trained in pairs]


class Renderer:
    """A tokenizer with a template.

    Args:
        tokenizer: A fast tokenizer of transformers.
        template: The resolved chat template.
        loss_on: `assistant`: tokens inside `{% generation %}` carry loss; `all`: every token.
        template_kwargs: Further variables of the template.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: ChatTemplate,
        *,
        loss_on: str = "assistant",
        template_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._loss_on = loss_on or "assistant"
        self._kwargs: dict[str, object] = {"chat_template": template.text, **(template_kwargs or {})}
        self._has_clock = "strftime_now" in template.text

    def row(self, messages: ChatMessages, tools: ChatTools = ()) -> RenderedRow:
        """Render a whole conversation as training sees it.

        Raises:
            TemplateRefusedError: the template does not take these messages.
        """
        return self.rows([messages], [tools])[0]

    def rows(
        self, conversations: Sequence[ChatMessages], tools: Sequence[ChatTools] | None = None
    ) -> list[RenderedRow]:
        """Render several conversations with few calls of the tokenizer, which costs a quarter less.

        Args:
            conversations: The messages of each.
            tools: The tools of each; None: nobody has any. Neighbours with the same tools share a call.

        Raises:
            TemplateRefusedError: the template does not take one of them.
        """
        offered = tools or [()] * len(conversations)
        rendered: list[RenderedRow] = []
        # As text, not as objects: templates print keys in their order, which objects compare without.
        pairs = zip(conversations, offered, strict=True)
        for _, group in groupby(pairs, key=lambda pair: json.dumps(pair[1]) if pair[1] else ""):
            together = list(group)
            rendered.extend(self._rows([messages for messages, _ in together], together[0][1]))
        return rendered

    def _rows(self, conversations: Sequence[ChatMessages], tools: ChatTools) -> list[RenderedRow]:
        wants_mask = self._loss_on == "assistant"
        rendered = self._apply_all(conversations, tools, return_assistant_tokens_mask=wants_mask)
        ids = [list(row) for row in rendered["input_ids"]]
        if not wants_mask:
            return [RenderedRow(input_ids=row, mask=[1] * len(row)) for row in ids]
        masks = [_with_whole_characters(rendered, row) for row in range(len(ids))]
        return [RenderedRow(input_ids=row, mask=mask) for row, mask in zip(ids, masks, strict=True)]

    @property
    def trains_everything(self) -> bool:
        """Whether every token carries loss, whoever wrote it."""
        return self._loss_on == "all"

    def plain(self, text: str) -> RenderedRow:
        """Return a text as pre-training sees it: no template, loss on every token, the end one too."""
        ids = list(self.tokenizer(text)["input_ids"])
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:  # some tokenizers write it themselves
            ids.append(end)
        return RenderedRow(input_ids=ids, mask=[1] * len(ids))

    def prompt(self, messages: ChatMessages, tools: ChatTools = ()) -> list[int]:
        """Render what a server sends to the model to get the next answer.

        Raises:
            TemplateRefusedError: the template does not take these messages.
        """
        chat = [dict(message) for message in messages]
        return list(self._apply(chat, tools, add_generation_prompt=True)["input_ids"])

    def prompts(self, conversations: Sequence[ChatMessages], tools: ChatTools = ()) -> list[list[int]]:
        """Render the prompts of several conversations that are offered the same tools; see `prompt`.

        Raises:
            TemplateRefusedError: the template does not take one of them.
        """
        rendered = self._apply_all(conversations, tools, add_generation_prompt=True)
        return [list(ids) for ids in rendered["input_ids"]]

    def written(self, messages: ChatMessages, tools: ChatTools = ()) -> str:
        """Return what the template makes of a conversation, before it becomes tokens.

        Raises:
            TemplateRefusedError: the template does not take these messages.
        """
        chat = [dict(message) for message in messages]
        return str(self._apply(chat, tools, tokenize=False, return_dict=False))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _apply_all(self, conversations: Sequence[ChatMessages], tools: ChatTools, **arguments: object) -> Any:
        chats = [[dict(message) for message in messages] for messages in conversations]
        return self._apply(chats, tools, **arguments)

    def _apply(self, chat: list[Any], tools: ChatTools, **arguments: object) -> Any:
        from jinja2 import TemplateError

        try:
            if self._has_clock:
                _freeze_clock(self.template)
            return self.tokenizer.apply_chat_template(
                chat,
                tools=[dict(tool) for tool in tools] or None,
                **{"tokenize": True, "return_dict": True, **self._kwargs, **arguments},
            )
        except (TemplateError, AttributeError, TypeError, KeyError, ValueError) as error:
            raise TemplateRefusedError(str(error)) from error


def _with_whole_characters(rendered: Any, row: int) -> list[int]:
    """Return a row's mask with the last character of every stretch in full.

    A character of several tokens is marked by its first one alone where it ends a stretch.
    """
    mask = list(rendered["assistant_masks"][row])
    ends = [at for at in range(1, len(mask)) if mask[at - 1] and not mask[at]]
    for end in ends:
        last = rendered.token_to_chars(row, end - 1)
        while last and end < len(mask) and rendered.token_to_chars(row, end) == last:
            mask[end] = 1
            end += 1
    return mask


def _freeze_clock(template: ChatTemplate) -> None:
    """Make `strftime_now` in a template answer with the recorded moment, in UTC.

    The library lets no callable into a template, and keeps one compiled form per text; so
    the clock is replaced there, each time, since two records may share a text.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    frozen = datetime.fromtimestamp(template.frozen_time_seconds, UTC)
    _compile_jinja_template(template.text).environment.globals["strftime_now"] = frozen.strftime
