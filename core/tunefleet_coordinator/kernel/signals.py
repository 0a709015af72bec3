"""Signals: 'something about this changed, look again'.

A signal carries nothing and remembers only that it rang: whoever waits reads what it
needs afterwards. So a slow waiter costs no memory and misses no change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType

__all__ = ["Signal", "SignalBoard"]


class Signal:
    """Rings when its topic changed since the last `wait` returned. Use it as a context manager."""

    def __init__(self, board: SignalBoard, topic: str) -> None:
        self._board = board
        self._topic = topic
        self._event = asyncio.Event()
        self._has_rung = False

    def __enter__(self) -> Signal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, error, traceback
        self.close()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a ring, or return False after `timeout` seconds without one."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def ring(self) -> None:
        """Wake whoever waits, now or at its next `wait`."""
        self._has_rung = True
        self._event.set()

    def nudge(self) -> None:
        """Wake whoever waits although nothing changed."""
        self._event.set()

    def take_ring(self) -> bool:
        """Return whether it rang, and not only nudged, since this was asked last."""
        rang, self._has_rung = self._has_rung, False
        return rang

    def close(self) -> None:
        """Stop listening."""
        self._board.remove(self._topic, self)


class SignalBoard:
    """The signals of one kind of topic, by topic."""

    def __init__(self) -> None:
        self._signals: dict[str, set[Signal]] = {}

    def listen(self, topic: str) -> Signal:
        """Return a new signal of a topic."""
        signal = Signal(self, topic)
        self._signals.setdefault(topic, set()).add(signal)
        return signal

    def remove(self, topic: str, signal: Signal) -> None:
        """Forget a signal."""
        signals = self._signals.get(topic, set())
        signals.discard(signal)
        if not signals:
            self._signals.pop(topic, None)

    def ring(self, topics: Iterable[str]) -> None:
        """Ring every signal of some topics."""
        if not self._signals:
            return
        for topic in topics:
            for signal in self._signals.get(topic, ()):
                signal.ring()

    def ring_all(self) -> None:
        """Ring every signal: anything may have changed."""
        self.ring(list(self._signals))
