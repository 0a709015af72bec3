"""Answers in OpenAI's shapes, whole and in pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any

from tunefleet_core.tool_calls import Call, CallReader, Piece

from tunefleet_embedded.engine.openai_schema import GenerationRequest
from tunefleet_embedded.engine.sequence import Sequence, TokenLogprob, Update
from tunefleet_embedded.engine.token_texts import TokenTexts

DONE = b"data: [DONE]\n\n"


class AnswerWriter:
    """Writes the answer to one request; knows its id, model and how tokens are to be shown."""

    def __init__(
        self,
        request: GenerationRequest,
        *,
        answer_id: str,
        created: int,
        texts: TokenTexts,
        calls: Callable[[], CallReader] | None = None,
    ) -> None:
        """`calls` makes a reader of calls for each choice; None leaves them in the text."""
        self._request = request
        self._texts = texts
        self._head = {"id": answer_id, "created": created, "model": request.model}
        kind = "chat.completion.chunk" if request.is_chat else "text_completion"
        opening = json.dumps({**self._head, "object": kind})[:-1]
        # A chunk per token and row: the constant part is encoded once.
        self._chunk_opening = f'data: {opening}, "choices": [{{"index": '
        self._chunk_closing = '}], "usage": null}\n\n' if request.include_usage else "}]}\n\n"
        self._offsets: dict[int, int] = {}
        self._started: set[int] = set()
        self._new_reader = calls
        self._readers: dict[int, CallReader] = {}
        self._called: dict[int, int] = {}

    def whole(self, sequences: Many[Sequence], texts: list[str], prompt_texts: list[str]) -> dict[str, Any]:
        """The answer in one piece. `texts` and `prompt_texts` (for echo) are per choice."""
        kind = "chat.completion" if self._request.is_chat else "text_completion"
        choices = [
            self._chat_choice(sequence, text)
            if self._request.is_chat
            else self._completion_choice(sequence, text, echo)
            for sequence, text, echo in zip(sequences, texts, prompt_texts, strict=True)
        ]
        return {**self._head, "object": kind, "choices": choices, "usage": self.usage(sequences)}

    def chunk(self, update: Update) -> str:
        """One server-sent event for one update of a choice."""
        logprobs = None
        if self._request.logprobs is not None and update.logprobs:
            logprobs = self._logprobs(update.logprobs, update.index)
        reason: str | None = update.finish_reason
        if self._request.is_chat:
            first = update.index not in self._started
            self._started.add(update.index)
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            piece = self._read(update.index, update.text, is_end=reason is not None)
            if piece.text or first:
                delta["content"] = piece.text
            if piece.calls:
                delta["tool_calls"] = self._numbered(update.index, piece.calls)
            reason = self._reason(update.index, reason)
            body = f'"delta": {json.dumps(delta)}'
        else:
            body = f'"text": {json.dumps(update.text)}'
        return (
            f"{self._chunk_opening}{update.index}, {body}, "
            f'"logprobs": {json.dumps(logprobs)}, "finish_reason": {json.dumps(reason)}{self._chunk_closing}'
        )

    def _read(self, index: int, text: str, *, is_end: bool) -> Piece:
        """Takes the calls out of what has come of a choice."""
        if self._new_reader is None:
            return Piece(text, ())
        reader = self._readers.get(index)
        if reader is None:
            reader = self._readers[index] = self._new_reader()
        piece = reader.push(text)
        if is_end:
            rest = reader.finish()
            piece = Piece(piece.text + rest.text, piece.calls + rest.calls)
        return piece

    def _reason(self, index: int, reason: str | None) -> str | None:
        has_called = index in self._readers and self._readers[index].has_calls
        return "tool_calls" if reason == "stop" and has_called else reason

    def _numbered(self, index: int, calls: Many[Call]) -> list[dict[str, Any]]:
        """Calls of a stream, counted through it."""
        first = self._called.get(index, 0)
        self._called[index] = first + len(calls)
        return [{"index": number, **_call(call)} for number, call in enumerate(calls, start=first)]

    def usage_chunk(self, sequences: Many[Sequence]) -> str:
        """The last event before [DONE] where the client asked for usage."""
        kind = "chat.completion.chunk" if self._request.is_chat else "text_completion"
        body = {**self._head, "object": kind, "choices": [], "usage": self.usage(sequences)}
        return f"data: {json.dumps(body)}\n\n"

    def usage(self, sequences: Many[Sequence]) -> dict[str, int]:
        """Token counts: each prompt once, however many choices it has; the end token counts as generated."""
        prompt = sum(
            len(sequence.prompt_ids) for sequence in sequences if sequence.index % self._request.n == 0
        )
        generated = 0
        if self._request.max_tokens != 0:
            generated = sum(len(sequence.token_ids) for sequence in sequences)
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def _chat_choice(self, sequence: Sequence, text: str) -> dict[str, Any]:
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = self._logprobs(sequence.logprobs, sequence.index)
        piece = self._read(sequence.index, text, is_end=True)
        message: dict[str, Any] = {"role": "assistant", "content": piece.text}
        if piece.calls:
            message |= {"content": piece.text or None, "tool_calls": [_call(call) for call in piece.calls]}
        return {
            "index": sequence.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self._reason(sequence.index, sequence.finish_reason),
        }

    def _completion_choice(self, sequence: Sequence, text: str, prompt_text: str) -> dict[str, Any]:
        scores_only = self._request.max_tokens == 0
        generated: list[TokenLogprob | None] = [] if scores_only else list(sequence.logprobs)
        logprobs = None
        if self._request.logprobs is not None:
            entries = sequence.prompt_logprobs + generated if self._request.echo else generated
            logprobs = self._completion_logprobs(entries, sequence)
        return {
            "index": sequence.index,
            "text": prompt_text + ("" if scores_only else text),
            "logprobs": logprobs,
            "finish_reason": "length" if scores_only else sequence.finish_reason,
        }

    def _logprobs(self, entries: list[TokenLogprob], index: int) -> dict[str, Any]:
        if not self._request.is_chat:
            return self._completion_logprobs(list(entries), index)
        return {
            "content": [
                {
                    **self._chat_token(entry.token_id, entry.logprob),
                    "top_logprobs": [self._chat_token(token_id, value) for token_id, value in entry.top],
                }
                for entry in entries
            ],
            "refusal": None,
        }

    def _chat_token(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {"token": self._show(token_id), "logprob": logprob, "bytes": list(self._texts.raw(token_id))}

    def _completion_logprobs(
        self, entries: list[TokenLogprob | None], sequence: Sequence | int
    ) -> dict[str, Any]:
        """OpenAI's older shape. The first token of an echoed prompt has no log-probability."""
        index = sequence if isinstance(sequence, int) else sequence.index
        ids = [entry.token_id for entry in entries if entry is not None]
        if not isinstance(sequence, int) and entries and entries[0] is None:
            ids = [sequence.prompt_ids[0], *ids]
        offset = self._offsets.get(index, 0)
        offsets: list[int] = []
        for token_id in ids:
            offsets.append(offset)
            offset += len(self._texts.text(token_id))
        self._offsets[index] = offset
        return {
            "tokens": [self._show(token_id) for token_id in ids],
            "token_logprobs": [None if entry is None else entry.logprob for entry in entries],
            "top_logprobs": [self._alternatives(entry) for entry in entries],
            "text_offset": offsets,
        }

    def _alternatives(self, entry: TokenLogprob | None) -> dict[str, float] | None:
        if entry is None:
            return None
        shown = {self._show(entry.token_id): entry.logprob}
        for token_id, logprob in entry.top:
            shown.setdefault(self._show(token_id), logprob)
        return shown

    def _show(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._request.tokens_as_ids else self._texts.shown(token_id)


def _call(call: Call) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
