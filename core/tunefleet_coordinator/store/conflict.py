"""Why one operation of a batch was not committed, while its neighbours were."""

from __future__ import annotations

from collections.abc import Iterable

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.lifecycle import Key

__all__ = ["Conflict", "Dependent"]


class Conflict(TunefleetError):
    """A row was not as the operation expected it: compare-and-set failed, or a key was taken.

    With one writer this means that memory and store have come apart; `keys` are the rows to
    read again.
    """

    def __init__(self, message: str, keys: Iterable[Key]) -> None:
        self.keys = frozenset(keys)
        super().__init__(Reason.ETAG_MISMATCH, message, hint="Read again, then retry.")


class Dependent(TunefleetError):
    """The operation was decided on the outcome of an earlier one of its batch that failed.

    Nothing is wrong with it: decide it again.
    """

    def __init__(self) -> None:
        super().__init__(
            Reason.UNAVAILABLE,
            "An operation that this one followed from could not be committed.",
            hint="Retry.",
        )
