"""Run a trainer: `python -m tunefleet_services.trainer --address HOST:PORT --state DIR`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tunefleet_core.process import ending_clearly, run_process
from tunefleet_services.joining import add_way, way_of
from tunefleet_services.trainer.trainer import Trainer, TrainerOptions


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_way(parser, name="trainer")
    parser.add_argument("--state", type=Path, required=True, help="state folder of this machine")
    parser.add_argument("--work", type=Path, help="folder for runs; default STATE/services/NAME")
    parser.add_argument("--lease-seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of a rank process; 0: its choice")
    parser.add_argument(
        "--stop-seconds",
        type=float,
        default=60.0,
        help="how long a stop waits for runs to save their state; 0: they go on, for the next start to adopt",
    )
    parser.add_argument("--no-warm", action="store_true", help="keep no process with its imports done")
    arguments = parser.parse_args()
    with ending_clearly():
        way = way_of(parser, arguments)
    options = TrainerOptions(
        name=way.name,
        address=way.address,
        token=way.token,
        membership=way.membership,
        state_folder=arguments.state.absolute(),
        work_folder=(arguments.work or arguments.state / "services" / way.name).absolute(),
        lease_seconds=arguments.lease_seconds,
        threads=arguments.threads,
        stop_seconds=max(0.0, arguments.stop_seconds),
        warm=not arguments.no_warm,
    )

    started: list[Trainer] = []

    async def work(group: asyncio.TaskGroup) -> None:
        started.append(Trainer(options, group))
        await started[0].run()

    async def stop() -> None:
        for trainer in started:
            await trainer.stop()

    run_process(work, stop)


if __name__ == "__main__":
    main()
