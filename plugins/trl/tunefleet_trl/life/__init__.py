"""The life of a run, tied to the library's trainer; what is decided is decided in the core."""

from tunefleet_core.run_life import DivergedError, with_rollbacks
from tunefleet_trl.life.attaching import attach_life
from tunefleet_trl.life.keeping_best import restore_best
from tunefleet_trl.life.row_places import RowPlaces

__all__ = ["DivergedError", "RowPlaces", "attach_life", "restore_best", "with_rollbacks"]
