"""A seeded simulator of whole fleets, driving the deciding core that the coordinator runs.

Virtual time and one seeded source of chance; crashes of services, hosts and coordinator,
late, doubled and overtaken messages, partitions past the lease, frozen zombies. The
invariants (`invariants.py`) are checked after every step. A seed that fails is printed
and fails again: `python -m tunefleet_core.testing.simulator --seed N`.
"""

from tunefleet_core.testing.simulation.coordinator import Decide
from tunefleet_core.testing.simulation.invariants import InvariantError
from tunefleet_core.testing.simulation.settings import Settings
from tunefleet_core.testing.simulation.simulation import Outcome, run_seed

__all__ = ["Decide", "InvariantError", "Outcome", "Settings", "run_seed"]
