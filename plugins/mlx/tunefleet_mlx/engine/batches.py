"""The loop that computes: a batch per served model, all of them a step at a time.

mlx-lm's own loop has one batch, of one model: a request for another waits until every answer
that is being written has ended. Here no model waits for another's answers.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import LRUPromptCache
from mlx_lm.server import (
    CompletionRequest,
    GenerationArguments,
    GenerationContext,
    ModelDescription,
    Response,
    ResponseGenerator,
    _format_top_logprobs,
    _make_logits_processors,
    _make_sampler,
)

from tunefleet_mlx.engine.calls import CallReaders
from tunefleet_mlx.engine.drafted import DraftCounts, DraftedAnswer
from tunefleet_mlx.engine.forms import Arguments, HeldToForm, held_to_form
from tunefleet_mlx.engine.models import ServedModels
from tunefleet_mlx.engine.refusal import Refusal
from tunefleet_mlx.engine.rendering import first_state, render
from tunefleet_mlx.engine.stopping import StopTexts

__all__ = ["Batches"]

_IDLE_SECONDS = 0.1
_STEP_BITS = 24
_Queued = tuple["Queue[Any]", CompletionRequest, Arguments]


@dataclass(slots=True, kw_only=True, eq=False)
class _Answer:
    """An answer being written: where it goes, how its tokens become text, and which texts end it."""

    out: Queue[Any]
    context: GenerationContext
    detokenizer: Any
    tokenizer: Any
    arguments: GenerationArguments
    stops: StopTexts
    held: HeldToForm | None

    def give(self, response: Any) -> None:
        """Pass a token on."""
        if self.held is not None and (error := self.held.error):
            self.context.stop()
            self.out.put(Refusal(500, f"The answer cannot be held to its form any further: {error}"))
            return
        finish = response.finish_reason
        if response.token not in self.tokenizer.eos_token_ids:  # what ends an answer is no part of it
            self.detokenizer.add_token(response.token)
        if finish is not None:
            self.detokenizer.finalize()
        text = self.stops.push(self.detokenizer.last_segment)
        if self.stops.is_complete:
            finish = "stop"
            self.context.stop()
        elif finish is not None:
            text += self.stops.rest()
        top = _format_top_logprobs(response.logprobs, self.arguments.top_logprobs, self.tokenizer)
        own = response.logprobs[response.token].item()
        self.out.put(Response(text, response.token, own, finish, top))
        if finish is not None:
            self.out.put(None)


class Batches(ResponseGenerator):
    """Takes requests by `generate` from any thread; one thread owns every array."""

    def __init__(self, models: ServedModels, prompt_cache: LRUPromptCache) -> None:
        self.started = threading.Event()
        self.failure: Exception | None = None
        self.draft_counts = DraftCounts()
        self.call_readers = CallReaders()
        self._running: dict[str, _Batch | DraftedAnswer] = {}
        self._numbers = itertools.count()
        super().__init__(models, prompt_cache)

    def generate(
        self,
        request: CompletionRequest,
        generation_args: GenerationArguments,
        progress_callback: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Queue a request; see mlx_lm.server. The model is meant as it is served at this moment."""
        served = self.model_provider.find(generation_args.model.model)
        generation_args.model = ModelDescription(model=served.key, draft="", adapter="")
        return super().generate(request, generation_args, progress_callback)

    def _run_generate(self) -> None:
        try:
            self.model_provider.load_default()
        except Exception as error:  # whatever it is, it is why the engine does not start
            self.failure = error
        finally:
            self.started.set()
        if self.failure is None:
            super()._run_generate()

    def _generate(self) -> None:
        stream = mx.default_stream(mx.default_device())
        while not self._stop:
            for queued in self._queued(may_wait=not self._running):
                try:
                    self._begin(queued, stream)
                except Exception as error:  # of this request alone
                    queued[0].put(error)
            for key, batch in list(self._running.items()):
                try:
                    batch.step(self.prompt_cache, key)
                except Exception as error:  # of this batch alone
                    batch.fail(error)
                if not batch.answers:
                    batch.generator.close()
                    del self._running[key]

    def _queued(self, *, may_wait: bool) -> list[_Queued]:
        found: list[_Queued] = []
        try:
            while True:
                found.append(self.requests.get(may_wait and not found, _IDLE_SECONDS))
        except Empty:
            return found

    def _begin(self, queued: _Queued, stream: Any) -> None:
        out, request, arguments = queued
        model, tokenizer = self.model_provider.load(arguments.model.model)
        held = None if arguments.form is None else held_to_form(arguments.form, tokenizer)
        draft = self.model_provider.draft_model
        if held is not None and draft is not None:
            raise Refusal(
                400, f"'{_field(arguments)}' is not supported beside a draft model: its guesses are free."
            )
        if not self.model_provider.is_batchable:
            if held is not None:
                raise Refusal(400, f"'{_field(arguments)}' is not supported for a model of this class.")
            self._serve_single(queued, stream)
            return
        key = self.model_provider.model_key
        prompt, _, _, state, _ = self._tokenize(tokenizer, request, arguments)
        stops, text_machine = self._make_state_machine(key, tokenizer, [])
        cache, rest = None, prompt
        if draft is None:
            cache, rest = self.prompt_cache.fetch_nearest_cache(key, prompt)
        if not rest:  # all of it was read before: the last token's logits were not kept
            cache, rest = None, prompt
        context = GenerationContext(
            has_tool_calling=tokenizer.has_tool_calling,
            has_thinking=tokenizer.has_thinking,
            tool_parser=tokenizer.tool_parser,
            text_sm=text_machine,
            initial_state=state,
            prompt=prompt,
            prompt_cache_count=len(prompt) - len(rest),
        )
        answer = _Answer(
            out=out,
            context=context,
            detokenizer=tokenizer.detokenizer,
            tokenizer=tokenizer,
            arguments=arguments,
            stops=StopTexts(arguments.stop_words),
            held=held,
        )
        sampler = _sampler(arguments, tokenizer)
        processors = list(_make_logits_processors(arguments) or [])
        if draft is not None:
            self._running[f"{key} {next(self._numbers)}"] = DraftedAnswer(
                answer,
                model=model,
                draft=draft,
                tokens=self.cli_args.num_draft_tokens,
                prompt=prompt,
                sampler=sampler,
                processors=processors,
                read_size=self.cli_args.prefill_step_size,
                counts=self.draft_counts,
            )
            out.put(context)
            return
        batch = self._running.get(key)
        if not isinstance(batch, _Batch):
            batch = _Batch(model, self.cli_args, stream)
        (uid,) = batch.generator.insert_segments(
            segments=[[rest]],
            max_tokens=[arguments.max_tokens],
            caches=[cache],
            all_tokens=[prompt[: len(prompt) - len(rest)]],
            samplers=[sampler],
            logits_processors=[[*processors, *([held] if held else [])]],
            stop_sequences=[stops],
        )
        self._running[key] = batch
        batch.answers[uid] = answer
        out.put(context)

    def _tokenize(self, tokenizer: Any, request: CompletionRequest, args: GenerationArguments) -> Any:
        """Return the prompt in the form of mlx_lm.server, which has one segment here; see there."""
        state = "normal"
        if request.request_type == "chat":
            kwargs = args.chat_template_kwargs
            prompt = render(tokenizer, request.messages, tools=request.tools, kwargs=kwargs)
            state = first_state(tokenizer, prompt)
        elif isinstance(request.prompt, list):  # token ids, which mlx_lm.server does not take
            prompt = list(request.prompt)
        else:
            prompt = tokenizer.encode(request.prompt)
        most = self.model_provider.max_context - 1
        if not 0 < len(prompt) <= most:
            raise Refusal(400, f"The prompt has {len(prompt)} tokens; this model reads 1 to {most}.")
        args.max_tokens = min(args.max_tokens, most + 1 - len(prompt))
        return prompt, [prompt], ["assistant"], state, None


class _Batch:
    """The answers of one model that are being written."""

    def __init__(self, model: Any, arguments: Any, stream: Any) -> None:
        self.answers: dict[int, _Answer] = {}
        self.generator = BatchGenerator(
            model,
            completion_batch_size=arguments.decode_concurrency,
            prefill_batch_size=arguments.prompt_concurrency,
            prefill_step_size=arguments.prefill_step_size,
            stream=stream,
        )

    def step(self, prompt_cache: LRUPromptCache, key: str) -> None:
        """Compute one step: a token for each answer, or a piece of their prompts."""
        read, written = self.generator.next()
        for response in read:
            self.answers[response.uid].out.put(response.progress)
        for response in written:
            self.answers[response.uid].give(response)
            if response.finish_reason is not None:
                prompt_cache.insert_cache(key, response.all_tokens[:], response.prompt_cache)
                del self.answers[response.uid]
        given_up = [uid for uid, answer in self.answers.items() if answer.context._should_stop]
        if given_up:
            self.generator.remove(given_up)
            for uid in given_up:
                del self.answers[uid]

    def fail(self, error: Exception) -> None:
        """Give up on every answer."""
        for answer in self.answers.values():
            answer.out.put(error)
        self.answers.clear()


def _field(arguments: Arguments) -> str:
    """Return the field of a request that asks for the form of its answer."""
    return arguments.form.field.partition(".")[0] if arguments.form is not None else ""


def _sampler(arguments: GenerationArguments, tokenizer: Any) -> Callable[[Any], Any]:
    """Return mlx-lm's sampler; with a seed one whose draws depend on it and the step alone.

    mlx_lm.server seeds the whole process instead, and so answers such a request alone.
    """
    sample = _make_sampler(arguments, tokenizer)
    if arguments.seed is None:
        return sample
    steps = itertools.count(arguments.seed << _STEP_BITS)

    def seeded(logprobs: Any) -> Any:
        mx.random.seed(next(steps) % 2**64)
        try:
            return sample(logprobs)
        finally:
            mx.random.seed(secrets.randbits(64))  # whoever draws next has no seed, or sets one

    return seeded
