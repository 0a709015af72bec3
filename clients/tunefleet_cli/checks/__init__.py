"""The checks of `tunefleet doctor`, in the order in which things can be wrong."""

from tunefleet_cli.checks.everything import check_all

__all__ = ["check_all"]
