"""Answers in OpenAI's form, whole or as a stream of chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.generate import TextStateMachine
from mlx_lm.server import GenerationContext, Response, ToolCallFormatter

from tunefleet_core.tool_calls import Call, CallReader, Piece
from tunefleet_mlx.engine.requests import Asked

__all__ = ["AnswerWriter"]


@dataclass(slots=True)
class _Written:
    """What has been written since it was last asked for."""

    text: str = ""
    reasoning: str = ""
    calls: list[str] = field(default_factory=list[str])
    read_calls: list[Call] = field(default_factory=list[Call])

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls or self.read_calls)


class AnswerWriter:
    """Turns the tokens of one answer into what the client reads."""

    def __init__(
        self,
        asked: Asked,
        context: GenerationContext,
        spell: Callable[[int], str],
        reader: CallReader | None = None,
    ) -> None:
        self._reader = reader
        self._read_calls = 0
        self._asked = asked
        self._context = context
        self._spell = spell
        self._id = f"{'chatcmpl' if asked.is_chat else 'cmpl'}-{uuid.uuid4()}"
        self._created = int(time.time())
        self._calls = ToolCallFormatter(context.tool_parser, asked.request.tools, asked.stream)
        self._machine = context.text_sm.make_state(context.initial_state)
        self._state = context.initial_state
        self._call = ""
        self._has_called = False
        self._tokens = 0
        self._finish = "stop"

    def whole(self, responses: Iterator[Response]) -> dict[str, Any]:
        """Return the answer once it is written."""
        written, logprobs = _Written(), list[Response]()
        for response in responses:
            self._take(response, written)
            logprobs.append(response)
        self._end(written)
        choice = self._choice(written, "message", logprobs)
        return {**self._envelope([choice], "chat.completion"), "usage": self._usage()}

    def chunks(self, responses: Iterator[Response]) -> Iterator[dict[str, Any]]:
        """Yield the answer as it is written."""
        written, logprobs = _Written(), list[Response]()
        for response in responses:
            self._take(response, written)
            logprobs.append(response)
            if written and response.finish_reason is None:
                choice = {**self._choice(written, "delta", logprobs), "finish_reason": None}
                yield self._envelope([choice], "chat.completion.chunk")
                written, logprobs = _Written(), []
        self._end(written)
        yield self._envelope([self._choice(written, "delta", logprobs)], "chat.completion.chunk")
        if self._asked.include_usage:
            yield {**self._envelope([], "chat.completion.chunk"), "usage": self._usage()}

    def _take(self, response: Response, written: _Written) -> None:
        self._tokens += 1
        if response.finish_reason is not None:
            self._finish = response.finish_reason
        self._machine, segments = TextStateMachine.split(self._machine, response.text)
        if response.finish_reason is not None:
            self._machine, held, state = TextStateMachine.flush(self._machine)
            segments = [*segments, (state, held)]
        for state, text in segments:
            if state == "reasoning":
                written.reasoning += text
            elif state == "tool":
                self._call += text
            elif state == "normal":
                self._end_call(written)
                if self._reader is None:
                    written.text += text
                else:
                    self._add(self._reader.push(text), written)
            self._state = state

    def _end_call(self, written: _Written) -> None:
        if self._call:
            written.calls.append(self._call)
            self._call, self._has_called = "", True

    def _add(self, piece: Piece, written: _Written) -> None:
        written.text += piece.text
        written.read_calls += piece.calls
        self._has_called = self._has_called or bool(piece.calls)

    def _end(self, written: _Written) -> None:
        self._end_call(written)
        if self._reader is not None:
            self._add(self._reader.finish(), written)
        if self._has_called and self._finish == "stop":
            self._finish = "tool_calls"

    def _choice(self, written: _Written, part: str, told: list[Response]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._finish, "logprobs": None}
        if self._asked.arguments.logprobs:
            choice["logprobs"] = (
                self._chat_logprobs(told) if self._asked.is_chat else self._text_logprobs(told)
            )
        if not self._asked.is_chat:
            return {**choice, "text": written.text}
        content: dict[str, Any] = {"role": "assistant", "content": written.text}
        if written.reasoning:
            content["reasoning_content"] = written.reasoning
        if written.calls or written.read_calls:
            told_calls = [*self._calls(written.calls), *map(self._read_call, written.read_calls)]
            content["tool_calls"] = told_calls
            content["content"] = written.text or None
        return {**choice, part: content}

    def _read_call(self, call: Call) -> dict[str, Any]:
        function = {"name": call.name, "arguments": call.arguments}
        found: dict[str, Any] = {"id": call.id, "type": "function", "function": function}
        if self._asked.stream:
            found["index"] = self._read_calls
            self._read_calls += 1
        return found

    def _envelope(self, choices: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind if self._asked.is_chat else "text_completion",
            "created": self._created,
            "model": self._asked.model,
            "choices": choices,
        }

    def _usage(self) -> dict[str, Any]:
        prompt = len(self._context.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._tokens,
            "total_tokens": prompt + self._tokens,
            "prompt_tokens_details": {"cached_tokens": self._context.prompt_cache_count},
        }

    def _chat_logprobs(self, told: list[Response]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._token(one.token, one.logprob),
                    "top_logprobs": [self._token(top["id"], top["logprob"]) for top in one.top_tokens],
                }
                for one in told
            ]
        }

    def _text_logprobs(self, told: list[Response]) -> dict[str, Any]:
        return {
            "tokens": [self._name(one.token) for one in told],
            "token_logprobs": [one.logprob for one in told],
            "top_logprobs": [
                {self._name(top["id"]): top["logprob"] for top in one.top_tokens} for one in told
            ],
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self._name(token), "logprob": logprob, "bytes": list(self._spell(token).encode())}

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._asked.tokens_as_ids else self._spell(token)
