"""Continuous batching: one thread owns the model and takes one decode step after another.

Between two steps it admits who waits, drops who has gone and runs adapter work, so that a request joins
within one decode step and an adapter comes or goes while others stream.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tunefleet_embedded.engine.errors import ApiError
from tunefleet_embedded.engine.metrics import Metrics
from tunefleet_embedded.engine.runner import BatchRunner, LongPrompt
from tunefleet_embedded.engine.sequence import Sequence, TokenLogprob, Update

_log = logging.getLogger(__name__)

# Padded prompt tokens read between two steps of the others: bounds how long a burst of newcomers can hold
# them up.
_PREFILL_TOKENS = 2048
# A prompt longer than this is read in chunks of this size, one per step.
_CHUNK_TOKENS = 512
_T = TypeVar("_T")
_Delivery = tuple[Callable[[Update], None], Update]


class Scheduler:
    """Thread-safe from outside: `submit`, `cancel`, `between_steps`, `retire`, `stop`."""

    def __init__(
        self,
        runner: BatchRunner,
        metrics: Metrics,
        *,
        max_batch: int,
        max_waiting: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._runner = runner
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._loop = loop
        self._wakeup = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._work: deque[Callable[[], None]] = deque()
        self._retiring: set[str] = set()
        self._long: LongPrompt | None = None
        self._has_cancelled = False
        self._is_stopping = False
        self._steps = 0
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Ends the thread after its current step. Returns False when it did not end in time."""
        with self._wakeup:
            self._is_stopping = True
            self._wakeup.notify()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def submit(self, sequences: list[Sequence]) -> None:
        """Queues the choices of one request, all or none.

        Raises:
            ApiError: 429, too many are waiting already.
        """
        with self._wakeup:
            if len(self._waiting) + len(sequences) > self._max_waiting:
                raise ApiError(
                    f"{len(self._waiting)} choices are waiting already; try again later or raise "
                    "--max-waiting.",
                    status=429,
                    kind="rate_limit_error",
                    code="queue_full",
                )
            for sequence in sequences:
                sequence.submitted_step = self._steps
            self._waiting.extend(sequences)
            self._wakeup.notify()

    def cancel(self, sequences: list[Sequence]) -> None:
        """Gives up choices whose client has gone; their rows are free before the next step.

        Finished ones are left.
        """
        with self._wakeup:
            for sequence in sequences:
                sequence.is_cancelled = True
            self._has_cancelled = True
            self._wakeup.notify()

    def between_steps(self, function: Callable[[], _T]) -> Future[_T]:
        """Runs `function` on the model's thread between two steps."""
        future: Future[_T] = Future()

        def work() -> None:
            try:
                result = function()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._wakeup:
            self._work.append(work)
            self._wakeup.notify()
        return future

    def retire(self, slot: str) -> None:
        """Drops an adapter's weights as soon as no choice uses them; those that do run to their end."""
        with self._wakeup:
            self._retiring.add(slot)
            self._wakeup.notify()

    def _run(self) -> None:
        while self._wait_for_work():
            deliveries: list[_Delivery] = []
            self._drop_cancelled()
            self._detach_retired()
            newcomers = self._take_newcomers()
            if newcomers:
                self._prefill(newcomers, deliveries)
            if self._long is not None:
                self._read_on(self._long, deliveries)
            if self._runner.rows:
                self._decode(deliveries)
            if deliveries:
                self._hand_over(deliveries)
        for row in self._runner.clear():
            row.fail("abort", "The engine is stopping.")

    def _wait_for_work(self) -> bool:
        """Runs queued adapter work, sleeps while there is nothing to do. Returns False when stopping."""
        while True:
            with self._wakeup:
                while not (self._is_stopping or self._work or self._has_model_work()):
                    self._metrics.running = self._metrics.waiting = 0
                    self._wakeup.wait()
                if self._is_stopping:
                    return False
                work = self._work.popleft() if self._work else None
            if work is None:
                return True
            work()

    def _has_model_work(self) -> bool:
        return bool(self._waiting or self._runner.rows or self._long or self._retiring)

    def _drop_cancelled(self) -> None:
        if not self._has_cancelled:
            return
        with self._wakeup:
            self._has_cancelled = False
            kept = [sequence for sequence in self._waiting if not sequence.is_cancelled]
            self._metrics.cancelled += len(self._waiting) - len(kept)
            self._waiting.clear()
            self._waiting.extend(kept)
        if self._long is not None and self._long.row.is_cancelled:
            self._long = None
            self._metrics.cancelled += 1
        for index in range(len(self._runner.rows) - 1, -1, -1):
            if self._runner.rows[index].is_cancelled:
                self._runner.leave(index)
                self._metrics.cancelled += 1

    def _detach_retired(self) -> None:
        if not self._retiring:
            return
        with self._wakeup:
            used = {row.slot for row in self._runner.rows} | {sequence.slot for sequence in self._waiting}
            if self._long is not None:
                used.add(self._long.row.slot)
            free = self._retiring - used
            self._retiring -= free
        for slot in free:
            self._runner.detach(slot)

    def _take_newcomers(self) -> list[Sequence]:
        """Takes from the queue, in order, what fits the batch and one step's share of prompt reading."""
        if not self._waiting:
            self._metrics.waiting = 0
            return []
        taken: list[Sequence] = []
        with self._wakeup:
            free = self._max_batch - len(self._runner.rows) - (self._long is not None)
            tokens = 0
            while self._waiting and len(taken) < free:
                size = len(self._waiting[0].prompt_ids)
                if size > _CHUNK_TOKENS:
                    if self._long is not None:
                        break  # One long prompt at a time, in order.
                    self._long = LongPrompt(self._waiting.popleft())
                    self._note_join([self._long.row])
                    free -= 1
                    continue
                tokens += size
                if taken and tokens > _PREFILL_TOKENS:
                    break
                taken.append(self._waiting.popleft())
            self._metrics.waiting = len(self._waiting)
        return taken

    def _prefill(self, newcomers: list[Sequence], deliveries: list[_Delivery]) -> None:
        learned = [row for row in newcomers if self._runner.prompts.count(row.slot)]
        plain = [row for row in newcomers if row not in learned]
        for group in [*_prefill_groups(plain), *_prefill_groups(learned)]:
            self._note_join(group)
            self._note_prefill(sum(len(row.prompt_ids) for row in group))
            try:
                first_tokens = self._runner.prefill(group)
            except Exception as error:
                _log.exception("prefill failed")
                self._fail(group, error, deliveries)
                continue
            self._note_first_token(group)
            self._accept(first_tokens, first=len(self._runner.rows) - len(group), deliveries=deliveries)

    def _read_on(self, prompt: LongPrompt, deliveries: list[_Delivery]) -> None:
        """One chunk of a long prompt per step of the others."""
        self._note_prefill(min(_CHUNK_TOKENS, len(prompt.row.prompt_ids) - prompt.read_tokens))
        try:
            first_token = self._runner.read_chunk(prompt, _CHUNK_TOKENS)
        except Exception as error:
            _log.exception("prefill failed")
            self._long = None
            self._fail([prompt.row], error, deliveries)
            return
        if first_token is not None:
            self._long = None
            self._note_first_token([prompt.row])
            self._accept([first_token], first=len(self._runner.rows) - 1, deliveries=deliveries)

    def _note_join(self, rows: list[Sequence]) -> None:
        with self._metrics.lock:
            for row in rows:
                self._metrics.join_steps.observe(self._steps - row.submitted_step)

    def _note_prefill(self, tokens: int) -> None:
        with self._metrics.lock:
            self._metrics.prefill_tokens.observe(tokens)

    def _note_first_token(self, rows: list[Sequence]) -> None:
        now = time.monotonic()
        with self._metrics.lock:
            for row in rows:
                self._metrics.first_token_seconds.observe(now - row.submitted_seconds)
        self._metrics.prompt_tokens += sum(len(row.prompt_ids) for row in rows)

    def _decode(self, deliveries: list[_Delivery]) -> None:
        try:
            tokens = self._runner.decode()
        except Exception as error:
            _log.exception("decode step failed")
            self._fail(self._runner.clear(), error, deliveries)
            return
        self._steps += 1
        self._metrics.decode_steps = self._steps
        self._accept(tokens, first=0, deliveries=deliveries)

    def _accept(
        self, tokens: list[tuple[int, TokenLogprob | None]], *, first: int, deliveries: list[_Delivery]
    ) -> None:
        rows = self._runner.rows
        finished: list[int] = []
        for index, (token_id, logprob) in enumerate(tokens, start=first):
            row = rows[index]
            update = row.accept(token_id, logprob)
            if update is not None:
                deliveries.append((row.deliver, update))
            if row.finish_reason is not None:
                finished.append(index)
        for index in reversed(finished):
            self._runner.leave(index)
        self._metrics.generated_tokens += len(tokens)
        self._metrics.running = len(rows)

    def _fail(self, rows: list[Sequence], error: Exception, deliveries: list[_Delivery]) -> None:
        if len(self._runner.rows) != self._runner.cached_rows:  # It failed between reading and joining.
            rows = [*rows, *self._runner.clear()]
        message = f"The model failed on this request: {type(error).__name__}: {error}"
        deliveries += [(row.deliver, row.fail("error", message)) for row in rows]
        self._metrics.running = len(self._runner.rows)

    def _hand_over(self, deliveries: list[_Delivery]) -> None:
        """One wake-up of the loop per step, however many rows have news."""
        try:
            self._loop.call_soon_threadsafe(_deliver, deliveries)
        except RuntimeError:  # The loop is closed: the process is on its way out.
            self._is_stopping = True


def _deliver(deliveries: list[_Delivery]) -> None:
    for deliver, update in deliveries:
        deliver(update)


def _prefill_groups(newcomers: list[Sequence]) -> list[list[Sequence]]:
    """Prompts read together: of similar length, so that at most half of a forward is padding.

    Echoed prompts go alone, because all their logits are kept.
    """
    groups: list[list[Sequence]] = []
    lengths = 0
    for row in sorted(newcomers, key=lambda row: len(row.prompt_ids), reverse=True):
        alone = row.params.prompt_logprobs
        if groups and not alone and not groups[-1][0].params.prompt_logprobs:
            padded = len(groups[-1][0].prompt_ids) * (len(groups[-1]) + 1)
            if padded <= 2 * (lengths + len(row.prompt_ids)):
                groups[-1].append(row)
                lengths += len(row.prompt_ids)
                continue
        groups.append([row])
        lengths = len(row.prompt_ids)
    return groups
