"""Events: one order, no gaps, and a reader that was cut off misses nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.identity import TIMES
from tunefleet_core.testing.conformance.shared_runs import whole_run

__all__ = ["Events"]

_TRAIN = Capability.CAPABILITY_TRAIN


class Events(Suite):
    """StreamRunEvents."""

    @case(_TRAIN)
    async def test_events_are_numbered_in_order_without_gaps(self, bench: Bench) -> None:
        ended = await bench.shared(whole_run)
        sequences = [event.source_sequence for event in await bench.events(ended.order.run)]
        assert sequences == list(range(1, len(sequences) + 1))
        assert ended.run.last_source_sequence == len(sequences)

    @case(_TRAIN)
    async def test_every_event_names_its_attempt_and_its_time(self, bench: Bench) -> None:
        order = (await bench.shared(whole_run)).order
        events = await bench.events(order.run)
        assert {event.attempt for event in events} == {order.attempt}
        assert all(event.HasField("create_time") and event.WhichOneof("payload") for event in events)

    @case(_TRAIN, is_error=True)
    async def test_a_reader_goes_on_after_any_event(self, bench: Bench) -> None:
        ended = await bench.shared(whole_run)
        order, last = ended.order, ended.run.last_source_sequence
        for after in (1, last // 2, last - 1):
            got = {event.source_sequence for event in await bench.events(order.run, after)}
            assert got == set(range(after + 1, last + 1))

    @case(_TRAIN, is_error=True)
    async def test_a_reader_that_is_cut_off_misses_nothing(self, bench: Bench) -> None:
        order = bench.orders.run()
        await bench.start(order)
        got: list[int] = []
        for _ in range(TIMES):
            async with aclosing(bench.follow(order.run, max(got, default=0))) as events:
                async for event in events:
                    got.append(event.source_sequence)
                    if len(got) % 3 == 0:
                        break
        got += [event.source_sequence for event in await bench.events(order.run, max(got))]
        assert sorted(got) == list(range(1, (await bench.get(order.run)).last_source_sequence + 1))

    @case(_TRAIN, is_error=True)
    async def test_after_the_last_event_the_stream_ends_at_once(self, bench: Bench) -> None:
        ended = await bench.shared(whole_run)
        order, last = ended.order, ended.run.last_source_sequence
        assert await bench.events(order.run, last) == []
        assert await bench.events(order.run, last + 1000) == []

    @case(_TRAIN)
    async def test_readers_at_the_same_time_see_the_same(self, bench: Bench) -> None:
        order = bench.orders.run()
        await bench.start(order)
        readers = await asyncio.gather(*(bench.events(order.run) for _ in range(TIMES)))
        assert all(events == readers[0] for events in readers)
