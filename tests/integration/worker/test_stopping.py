"""A service that is told to stop does, whatever it is doing at that moment."""

from __future__ import annotations

import asyncio
import random

from chaos_fleet import ChaosFleet

_TIMES = 12


async def test_trainer_stops_at_the_very_moment_it_is_welcomed(fleet: ChaosFleet) -> None:
    """A cancel that comes together with a message of the coordinator must not get lost."""
    rng = random.Random(7)
    await fleet.stop("trainer")
    for _ in range(_TIMES):
        await fleet.start_trainer()
        await asyncio.sleep(rng.choice([0.0, 0.0, rng.uniform(0.0, 0.01)]))
        assert await fleet.stop("trainer") == 0
