"""`tunefleet up`: the whole fleet on one machine, as child processes of one supervisor."""

from tunefleet_services.local.options import UpOptions
from tunefleet_services.local.up import run_up

__all__ = ["UpOptions", "run_up"]
