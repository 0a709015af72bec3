"""Command line of the simulator.

python -m tunefleet_core.testing.simulator --seeds 200 --services 20 --jobs 100
python -m tunefleet_core.testing.simulator --seed 17 --services 20 --jobs 100

Exits 1 at the first seed that fails, and prints how to replay it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tunefleet_core.lifecycle import decide
from tunefleet_core.testing.simulation import Decide, Outcome, Settings, run_seed

__all__ = ["main"]


def main(arguments: list[str] | None = None, decide_with: Decide = decide) -> int:
    """Simulate seeds; return the exit code. `decide_with` is for planting bugs."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m tunefleet_core.testing.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many, from --first")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this seed alone")
    parser.add_argument("--services", type=int, default=defaults.services)
    parser.add_argument("--jobs", type=int, default=defaults.jobs)
    parser.add_argument("--fault-seconds", type=float, default=defaults.fault_seconds)
    parser.add_argument("--quiet", action="store_true", help="only the last line")
    asked = parser.parse_args(arguments)
    settings = Settings(services=asked.services, jobs=asked.jobs, fault_seconds=asked.fault_seconds)
    seeds = [asked.seed] if asked.seed is not None else range(asked.first, asked.first + asked.seeds)
    start, steps = time.perf_counter(), 0
    for seed in seeds:
        try:
            outcome = run_seed(seed, settings, decide_with)
        except Exception:
            traceback.print_exc()
            print(
                f"seed {seed} FAILED. Replay it:\n  python -m tunefleet_core.testing.simulator --seed {seed} "
                f"--services {asked.services} --jobs {asked.jobs} --fault-seconds {asked.fault_seconds}",
                file=sys.stderr,
            )
            return 1
        steps += outcome.steps
        if not asked.quiet:
            print(_line(outcome))
    seconds = time.perf_counter() - start
    print(f"{len(seeds)} seeds held every invariant: {steps} steps in {seconds:.1f} s")
    return 0


def _line(outcome: Outcome) -> str:
    states = " ".join(f"{word.lower()}={count}" for word, count in outcome.states.items())
    return (
        f"seed {outcome.seed}: {states} deleted={outcome.deleted} attempts={outcome.attempts} "
        f"paused={outcome.paused} interrupted={outcome.interrupted} "
        f"rolled_out={outcome.rolled_out} rolled_back={outcome.rolled_back} faults={outcome.faults} "
        f"boots={outcome.boots} steps={outcome.steps} virtual={outcome.virtual_seconds:.0f}s "
        f"digest={outcome.digest[:12]}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
