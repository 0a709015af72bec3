"""The simulated network: calls that are late, doubled, overtaken, lost, and links that are cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tunefleet_core.lifecycle import DesiredView, Input, Moment
from tunefleet_core.testing.simulation.coordinator import Answer, SimulatedCoordinator
from tunefleet_core.testing.simulation.loop import Loop
from tunefleet_core.testing.simulation.settings import Settings

__all__ = ["Link", "MakeInput"]

MakeInput: TypeAlias = Callable[[Moment], Input]
"""Makes an input of the moment at which it arrives."""


class Link:
    """What lies between one peer and the coordinator.

    `is_calm` ends lateness and doubling, when the faults are over.
    """

    def __init__(self, loop: Loop, settings: Settings, coordinator: SimulatedCoordinator) -> None:
        self.is_cut = False
        self.is_calm = False
        self._loop = loop
        self._settings = settings
        self._coordinator = coordinator

    def call(self, make: MakeInput, answered: Callable[[Answer | None], None], timeout: float = 1.0) -> None:
        """Send an input; `answered` is called once, with None if no answer came in time."""
        done: list[bool] = []

        def once(answer: Answer | None) -> None:
            if not done:
                done.append(True)
                answered(answer)

        def arrive() -> None:
            if self.is_cut or not self._coordinator.is_up:
                return
            answer = self._coordinator.handle(make(self._coordinator.moment()))
            if answer is not None:
                self._loop.after(self._delay(), lambda: None if self.is_cut else once(answer))

        twice = not self.is_calm and self._loop.chance.random() < self._settings.duplicate_share
        for _ in range(2 if twice else 1):
            if not self.is_cut:
                self._loop.after(self._delay(), arrive)
        self._loop.after(timeout, lambda: once(None))

    def push(
        self, deliver: Callable[[int, int, DesiredView], None], epoch: int, generation: int, view: DesiredView
    ) -> None:
        """Bring a desired set to a service; as TCP does, try until it arrives."""

        def arrive() -> None:
            if self.is_cut:
                self._loop.after(0.3, arrive)
            else:
                deliver(epoch, generation, view)

        self._loop.after(self._delay(), arrive)

    def _delay(self) -> float:
        chance = self._loop.chance
        if not self.is_calm and chance.random() < self._settings.slow_share:
            return chance.uniform(0.05, self._settings.latest_seconds)
        return chance.uniform(0.001, 0.05)
