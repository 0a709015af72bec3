"""The life of a training run inside a rank: what is kept of its decisions, and how a lost one goes on.

What is decided is decided in `run_health`, which does no I/O; a backend's loop asks here at every
step, validation and checkpoint, and writes weights where it is told to.
"""

from tunefleet_core.run_life.recovering import DivergedError, RolledBack, with_rollbacks
from tunefleet_core.run_life.run_life import RunLife
from tunefleet_core.run_life.sampling import Samples

__all__ = ["DivergedError", "RolledBack", "RunLife", "Samples", "with_rollbacks"]
