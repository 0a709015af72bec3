"""The life of a run, tied to the library's trainer; what is decided is decided in the core."""

from tunefleet_trl.life.attaching import attach_life
from tunefleet_trl.life.keeping_best import restore_best

__all__ = ["attach_life", "restore_best"]
