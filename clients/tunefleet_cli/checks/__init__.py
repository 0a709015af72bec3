"""The checks of `tunefleet doctor`, in the order in which things can be wrong."""

from tunefleet_cli.checks.everything import check_all
from tunefleet_cli.checks.place import Place, find_place

__all__ = ["Place", "check_all", "find_place"]
