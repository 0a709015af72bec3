"""The life of a run, tied to the library's trainer; what is decided is decided in the core."""

from tunefleet_trl.life.attaching import attach_life

__all__ = ["attach_life"]
