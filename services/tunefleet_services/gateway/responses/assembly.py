"""From the chunks of a chat completion to a response: its events, and at the end all of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["Assembly"]

Event = dict[str, Any]
_ECHOED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "temperature", "text",
    "tool_choice", "tools", "top_p", "truncation", "user", "reasoning",
)  # fmt: skip
_USUAL: Event = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}}


@dataclass(slots=True, kw_only=True)
class _Item:
    """One item of the output, as far as it came."""

    kind: Literal["reasoning", "message", "function_call"]
    id: str
    index: int
    text: str = ""
    call_id: str = ""
    name: str = ""
    status: str = "in_progress"

    def document(self) -> Event:
        shown: Event = {"id": self.id, "type": self.kind, "status": self.status}
        match self.kind:
            case "message":
                return {**shown, "role": "assistant", "content": [self.part()] if self.text else []}
            case "reasoning":
                content = [self.part()] if self.text else []
                return {**shown, "summary": [], "content": content}
            case "function_call":
                return {**shown, "call_id": self.call_id, "name": self.name, "arguments": self.text}

    def part(self) -> Event:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}


@dataclass(slots=True, kw_only=True)
class Assembly:
    """A response in the making.

    Attributes:
        request: What was asked; part of it is said again in the answer.
    """

    request: Mapping[str, Any]
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created_at: float = field(default_factory=lambda: float(int(time.time())))
    status: str = "in_progress"
    _items: list[_Item] = field(default_factory=list[_Item])
    _open: _Item | None = None
    _calls: dict[int, _Item] = field(default_factory=dict[int, _Item])
    _usage: Event | None = None
    _is_cut: bool = False
    _numbered: int = 0

    def begin(self) -> Iterator[Event]:
        """Yield the events before the first token."""
        yield self._event("response.created", response=self.document())
        yield self._event("response.in_progress", response=self.document())

    def take(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """Yield what a chunk adds.

        Raises:
            TunefleetError: BACKEND_FAILED for a chunk of another form than OpenAI's.
        """
        try:
            for choice in chunk.get("choices") or ():
                delta: Any = choice.get("delta") or {}
                if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                    yield from self._add("reasoning", str(thought))
                if text := delta.get("content"):
                    yield from self._add("message", str(text))
                for call in delta.get("tool_calls") or ():
                    yield from self._add_call(call)
                self._is_cut = self._is_cut or choice.get("finish_reason") == "length"
            if usage := chunk.get("usage"):
                self._usage = cast("Event", usage)
        except (AttributeError, TypeError, KeyError) as error:
            raise TunefleetError(
                Reason.BACKEND_FAILED,
                "The engine sent an event of another form than OpenAI's.",
                hint="See its log: `tunefleet deployments list` names the server.",
            ) from error

    def end(self) -> Iterator[Event]:
        """Yield the events after the last token; all of them, for an engine that said nothing."""
        if not self._numbered:
            yield from self.begin()
        yield from self._close("incomplete" if self._is_cut else "completed")
        if not self._items:  # an empty answer is an answer
            yield from self._start("message")
            yield from self._close("completed")
        self.status = "incomplete" if self._is_cut else "completed"
        yield self._event(f"response.{self.status}", response=self.document())

    def fail(self, message: str) -> Event:
        """Return the event of an answer that broke off."""
        self.status = "failed"
        document = {**self.document(), "error": {"code": "server_error", "message": message}}
        return self._event("response.failed", response=document)

    def document(self) -> Event:
        """Return the response as it stands."""
        echoed = {name: self.request[name] for name in _ECHOED if self.request.get(name) is not None}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "model": self.request["model"],
            "status": self.status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "output": [item.document() for item in self._items],
            "usage": self._counted(),
            "store": False,
            **_USUAL,
            **echoed,
        }

    def _add(self, kind: Literal["reasoning", "message"], text: str) -> Iterator[Event]:
        if self._open is None or self._open.kind != kind:
            yield from self._start(kind)
        item = self._open
        assert item is not None
        if not item.text:
            # Announced before it holds anything, as OpenAI does.
            yield self._event("response.content_part.added", **self._place(item), part=item.part())
        item.text += text
        name = "reasoning_text" if kind == "reasoning" else "output_text"
        more: Event = {} if kind == "reasoning" else {"logprobs": []}
        yield self._event(f"response.{name}.delta", **self._place(item), delta=text, **more)

    def _add_call(self, call: Mapping[str, Any]) -> Iterator[Event]:
        index = int(call.get("index") or 0)
        function: Mapping[str, Any] = call.get("function") or {}
        if index not in self._calls:
            name, call_id = str(function.get("name") or ""), str(call.get("id") or f"call_{uuid.uuid4().hex}")
            yield from self._start("function_call", name=name, call_id=call_id)
            assert self._open is not None
            self._calls[index] = self._open
        item = self._calls[index]
        if arguments := function.get("arguments"):
            item.text += str(arguments)
            yield self._event(
                "response.function_call_arguments.delta",
                item_id=item.id,
                output_index=item.index,
                delta=str(arguments),
            )

    def _start(
        self, kind: Literal["reasoning", "message", "function_call"], *, name: str = "", call_id: str = ""
    ) -> Iterator[Event]:
        yield from self._close("completed")
        prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind]
        item = _Item(
            kind=kind,
            id=f"{prefix}_{uuid.uuid4().hex}",
            index=len(self._items),
            name=name,
            call_id=call_id,
        )
        self._items.append(item)
        self._open = item
        yield self._event("response.output_item.added", output_index=item.index, item=item.document())

    def _close(self, status: str) -> Iterator[Event]:
        item, self._open = self._open, None
        if item is None:
            return
        item.status = status
        if item.kind == "function_call":
            yield self._event(
                "response.function_call_arguments.done",
                item_id=item.id,
                output_index=item.index,
                name=item.name,
                arguments=item.text,
            )
        elif item.text:
            name = "reasoning_text" if item.kind == "reasoning" else "output_text"
            more: Event = {} if item.kind == "reasoning" else {"logprobs": []}
            yield self._event(f"response.{name}.done", **self._place(item), text=item.text, **more)
            yield self._event("response.content_part.done", **self._place(item), part=item.part())
        yield self._event("response.output_item.done", output_index=item.index, item=item.document())

    def _place(self, item: _Item) -> Event:
        return {"item_id": item.id, "output_index": item.index, "content_index": 0}

    def _event(self, kind: str, **content: object) -> Event:
        number, self._numbered = self._numbered, self._numbered + 1
        return {"type": kind, "sequence_number": number, **content}

    @property
    def tokens(self) -> tuple[int, int] | None:
        """Tokens of prompt and answer; None if the engine did not count them."""
        counted = self._counted()
        return None if counted is None else (counted["input_tokens"], counted["output_tokens"])

    def _counted(self) -> Event | None:
        if self._usage is None:
            return None
        asked = int(self._usage.get("prompt_tokens") or 0)
        written = int(self._usage.get("completion_tokens") or 0)
        cached: Event = self._usage.get("prompt_tokens_details") or {}
        thought: Event = self._usage.get("completion_tokens_details") or {}
        return {
            "input_tokens": asked,
            "input_tokens_details": {
                "cached_tokens": int(cached.get("cached_tokens") or 0),
                "cache_write_tokens": 0,
            },
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": int(thought.get("reasoning_tokens") or 0)},
            "total_tokens": asked + written,
        }
