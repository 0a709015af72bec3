"""Calls of tools, for the models of this engine: how each writes them, and what holds it to that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2
from tunefleet_core.answer_forms import AnswerForm, Grammars
from tunefleet_core.tool_calls import CallFormat, CallReader, ToolUse, calls_form, find_format, reader_of

from tunefleet_embedded.engine.adapters import ServedModel
from tunefleet_embedded.engine.detokenize import Decoder
from tunefleet_embedded.engine.model import BaseModel
from tunefleet_embedded.engine.openai_schema import GenerationRequest


class ToolForms:
    """Knows the models' ways of writing calls, found when the first request with tools comes."""

    def __init__(self, base: BaseModel, grammars: Grammars) -> None:
        self._base = base
        self._grammars = grammars
        self._formats: dict[str, CallFormat | None] = {}
        added = base.backend.get_added_tokens_decoder()
        self._tokens = {token.content: token_id for token_id, token in added.items()}
        self._special = {token_id for token_id, token in added.items() if token.special}

    def form(self, request: GenerationRequest, model: ServedModel) -> AnswerForm | None:
        """What an answer is held to: what `response_format` asks for, and calls where tools are strict.

        Raises:
            FormRefusedError: it cannot be held, naming the field.
        """
        use = request.tools
        if use is None:
            return request.form
        form = calls_form(use, self._format(model), self._tokens, answer=request.form)
        if form is not None and form is not request.form:
            if request.form is not None:
                self._grammars.start(request.form, model.stop_ids)
            for name in [use.only] if use.only else use.schemas if use.must_call else use.strict:
                # Each alone first: a refusal names the tool.
                schema = AnswerForm(schema=use.schema_text(name), field=use.field_of(name))
                self._grammars.start(schema, model.stop_ids)
        return form

    def reader(self, use: ToolUse | None, model: ServedModel) -> Callable[[], CallReader] | None:
        """What takes calls out of a choice's text; None: nothing does."""
        found = self._format(model) if use is not None else None
        if use is None or found is None:
            return None
        return lambda: reader_of(found, use.schemas, is_parallel=use.is_parallel)

    def decoder(self, use: ToolUse | None, model: ServedModel) -> Decoder:
        """What makes text of tokens: marks of calls are shown, also where they are special tokens."""
        found = self._format(model) if use is not None else None
        marks = {self._tokens[mark] for mark in found.marks if mark in self._tokens} if found else set()
        hidden = self._special - marks
        return self._base.backend if hidden == self._special else _WithMarks(self._base.backend, hidden)

    def _format(self, model: ServedModel) -> CallFormat | None:
        template = model.chat_template or self._base.tokenizer.chat_template
        if not isinstance(template, str):
            return None
        if template not in self._formats:
            self._formats[template] = self._find(template)
        return self._formats[template]

    def _find(self, template: str) -> CallFormat | None:
        def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]], is_prompt: bool) -> str:
            return self._base.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                chat_template=template,
                add_generation_prompt=is_prompt,
                tokenize=False,
            )

        marks = [text for text, token_id in self._tokens.items() if token_id in self._special]
        try:
            return find_format(render, marks)
        except (jinja2.TemplateError, AttributeError, ValueError, TypeError, KeyError):
            return None  # a template that takes no calls writes none


class _WithMarks:
    """A tokenizer that leaves out special tokens, but for some."""

    def __init__(self, backend: Decoder, hidden: set[int]) -> None:
        self._backend = backend
        self._hidden = hidden

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        shown = [one for one in ids if one not in self._hidden] if skip_special_tokens else ids
        return self._backend.decode(shown, skip_special_tokens=False)
