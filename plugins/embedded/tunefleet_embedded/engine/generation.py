"""From a checked request to sequences and back to an answer: the bridge between HTTP and the scheduler."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

from tunefleet_core.answer_forms import AnswerForm, FormRefusedError, Grammars

from tunefleet_embedded.engine.adapters import ModelRegistry, ServedModel
from tunefleet_embedded.engine.chat import render_chat
from tunefleet_embedded.engine.detokenize import TextStream
from tunefleet_embedded.engine.errors import ApiError, model_not_found
from tunefleet_embedded.engine.model import BaseModel
from tunefleet_embedded.engine.openai_answers import AnswerWriter
from tunefleet_embedded.engine.openai_schema import Conversation, GenerationRequest
from tunefleet_embedded.engine.scheduler import Scheduler
from tunefleet_embedded.engine.sequence import SamplingParams, Sequence, Update
from tunefleet_embedded.engine.token_texts import TokenTexts
from tunefleet_embedded.engine.tools import ToolForms

# Above this many characters tokenising takes milliseconds, too long for the loop.
_INLINE_CHARACTERS = 8192


class Generator:
    """Starts generations. Belongs to the asyncio loop."""

    def __init__(self, base: BaseModel, registry: ModelRegistry, scheduler: Scheduler) -> None:
        self._base = base
        self._registry = registry
        self._scheduler = scheduler
        self._texts = TokenTexts(base.backend)
        self._grammars = Grammars(base.backend.to_str(), base.vocabulary)
        self._tools = ToolForms(base, self._grammars)

    @property
    def is_alive(self) -> bool:
        return self._scheduler.is_alive

    async def encode(
        self, prompt: Conversation | str | list[int], model: ServedModel, *, add_special_tokens: bool = True
    ) -> list[int]:
        """Token ids of a prompt or a conversation.

        Raises:
            ApiError: token ids outside the vocabulary, or a template that refuses the messages.
        """
        if isinstance(prompt, list):
            wrong = next((one for one in prompt if one >= self._base.vocabulary), None)
            if wrong is not None:
                raise ApiError(
                    f"'prompt' holds the token id {wrong}, outside the vocabulary.", param="prompt"
                )
            return prompt
        size = len(prompt) if isinstance(prompt, str) else sum(len(one["content"]) for one in prompt.messages)
        if size <= _INLINE_CHARACTERS:
            return self._encode(prompt, model, add_special_tokens)
        return await asyncio.to_thread(self._encode, prompt, model, add_special_tokens)

    def _encode(self, prompt: Conversation | str, model: ServedModel, add_special_tokens: bool) -> list[int]:
        if isinstance(prompt, str):
            return self._base.encode(prompt, add_special_tokens=add_special_tokens)
        return render_chat(
            self._base,
            prompt.messages,
            tools=prompt.tools,
            template=model.chat_template,
            add_generation_prompt=prompt.add_generation_prompt,
            template_kwargs=prompt.template_kwargs,
        )

    async def start(self, request: GenerationRequest, model: ServedModel) -> Generation:
        """Tokenises, checks lengths and submits. Raises ApiError when the request cannot be served."""
        prompts = [await self.encode(prompt, model) for prompt in request.prompts]
        updates: asyncio.Queue[Update] = asyncio.Queue()
        sequences: list[Sequence] = []
        form = await self._form(request, model)
        for ids in prompts:
            params = self._params(request, model, prompt_tokens=len(ids))
            for choice in range(request.n):
                sequences.append(
                    self._sequence(request, model, ids, params, choice, len(sequences), updates, form)
                )
        if self._registry.find(request.model) is not model:
            # Unloaded, and loaded anew, while this was tokenised.
            raise model_not_found(request.model, [one.name for one in self._registry.all()])
        writer = AnswerWriter(
            request,
            answer_id=f"{'chatcmpl' if request.is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            created=int(time.time()),
            texts=self._texts,
            calls=self._tools.reader(request.tools, model),
        )
        self._scheduler.submit(sequences)
        return Generation(
            request, sequences, updates, writer=writer, scheduler=self._scheduler, base=self._base
        )

    async def _form(self, request: GenerationRequest, model: ServedModel) -> AnswerForm | None:
        """Compiles what the answer is held to, off the loop; each choice then gets a copy."""
        try:
            form = await asyncio.to_thread(self._tools.form, request, model)
            if form is not None:
                await asyncio.to_thread(self._grammars.start, form, model.stop_ids)
        except FormRefusedError as error:
            raise ApiError(error.message, param=error.field) from error
        return form

    def _params(
        self, request: GenerationRequest, model: ServedModel, *, prompt_tokens: int
    ) -> SamplingParams:
        if prompt_tokens == 0:
            raise ApiError("The prompt has no tokens.", param="messages" if request.is_chat else "prompt")
        prompt_tokens += model.virtual_tokens  # learned embeddings take their place too
        room = self._base.max_context - prompt_tokens
        wanted = request.max_tokens if request.max_tokens is not None else max(room, 1)
        if wanted > room:
            raise ApiError(
                f"This model's context is {self._base.max_context} tokens; the prompt has {prompt_tokens} "
                f"and {wanted} more were asked for. Shorten the prompt or lower max_tokens.",
                param="messages" if request.is_chat else "prompt",
                code="context_length_exceeded",
            )
        return SamplingParams(
            max_tokens=max(wanted, 1),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            logprobs=request.logprobs,
            prompt_logprobs=request.echo and request.logprobs is not None,
            stop=request.stop,
            stop_ids=request.stop_token_ids | (frozenset() if request.ignore_eos else model.stop_ids),
        )

    def _sequence(
        self,
        request: GenerationRequest,
        model: ServedModel,
        ids: list[int],
        params: SamplingParams,
        choice: int,
        index: int,
        updates: asyncio.Queue[Update],
        form: AnswerForm | None,
    ) -> Sequence:
        # Choices of one seeded request differ from each other, and each comes out the same every time.
        rng = random.Random() if params.seed is None else random.Random(f"{params.seed}/{choice}")
        return Sequence(
            index=index,
            model=request.model,
            slot=model.slot,
            prompt_ids=ids,
            params=params,
            text_stream=TextStream(
                self._tools.decoder(request.tools, model), prompt_ids=ids, stop=params.stop
            ),
            deliver=updates.put_nowait,
            wants_stream=request.stream,
            rng=rng,
            grammar=None if form is None else self._grammars.start(form, model.stop_ids),
        )


class Generation:
    """One request being answered. Leaving the context gives up what is not finished and so frees its rows."""

    def __init__(
        self,
        request: GenerationRequest,
        sequences: list[Sequence],
        updates: asyncio.Queue[Update],
        *,
        writer: AnswerWriter,
        scheduler: Scheduler,
        base: BaseModel,
    ) -> None:
        self._request = request
        self._sequences = sequences
        self._updates = updates
        self._writer = writer
        self._scheduler = scheduler
        self._base = base
        self._unfinished = len(sequences)

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unfinished:
            self._scheduler.cancel(self._sequences)

    async def whole(self) -> dict[str, Any]:
        """Waits for every choice and returns the answer. Raises ApiError 500 when the model failed."""
        texts = [""] * len(self._sequences)
        while self._unfinished:
            update = await self._updates.get()
            self._count_finished(update)
            texts[update.index] = update.text
        echoes = [self._echo(sequence) for sequence in self._sequences]
        return self._writer.whole(self._sequences, texts, echoes)

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events up to, not including, [DONE]; several at once when the client reads slowly."""
        if self._request.echo:
            for sequence in self._sequences:
                yield self._writer.chunk(Update(sequence.index, self._echo(sequence), [], [], None))
        while self._unfinished:
            update = await self._updates.get()
            events = [self._event(update)]
            while not self._updates.empty():
                events.append(self._event(self._updates.get_nowait()))
            yield "".join(events)
        if self._request.include_usage:
            yield self._writer.usage_chunk(self._sequences)

    def _event(self, update: Update) -> str:
        try:
            self._count_finished(update)
        except ApiError as error:  # The status line is out already: the error travels as an event.
            return f"data: {json.dumps(error.body())}\n\n"
        return self._writer.chunk(update)

    def _count_finished(self, update: Update) -> None:
        if update.finish_reason is None:
            return
        self._unfinished -= 1
        if update.finish_reason in ("error", "abort"):
            message = self._sequences[update.index].error or "The engine gave up on this request."
            raise ApiError(message, status=500, kind="server_error")

    def _echo(self, sequence: Sequence) -> str:
        return self._base.backend.decode(sequence.prompt_ids) if self._request.echo else ""
