"""A process that commits until it is killed: prints what was acknowledged, batch by batch."""

from __future__ import annotations

import sys
from pathlib import Path

from tunefleet_coordinator.store import Store
from tunefleet_core.lifecycle import Policy, World, decide
from tunefleet_core.testing import samples


def main(path: Path, run: str) -> None:
    store = Store.open(path)
    durable = store.load()
    world = World(durable.rows, next_queue_number=durable.next_queue_number)
    policy = Policy()
    number = 0
    while True:
        names = [f"{run}-{number + index}" for index in range(1 + number % 40)]
        batch = []
        for name in names:
            decision = decide(world, samples.submit(0, name, request_id=name), policy)
            world.apply(decision.changes)
            batch.append(decision.changes)
        if store.commit(batch) != [None] * len(batch):
            raise SystemExit("a commit failed")
        world.settle()
        number += len(names)
        print(*names, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
