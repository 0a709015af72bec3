"""The look: one accent; green, yellow and red for states only, never without a symbol."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from rich.theme import Theme

__all__ = ["THEME", "state_symbol", "state_text"]

THEME = Theme(
    {
        "accent": "cyan",
        "strong": "bold",
        "faint": "dim",
        "good": "green",
        "attention": "yellow",
        "bad": "red",
        "trained": "bold cyan",
    },
    inherit=True,
)

_STATES: Mapping[str, tuple[str, str]] = {
    # jobs
    "PENDING": ("○", "faint"),
    "PREPARING": ("◐", "attention"),
    "RUNNING": ("●", "good"),
    "PAUSING": ("◑", "attention"),
    "PAUSED": ("‖", "attention"),
    "WAITING_RETRY": ("↻", "attention"),
    "STOPPING": ("◌", "attention"),
    "SUCCEEDED": ("✓", "good"),
    "FAILED": ("✗", "bad"),
    "CANCELLED": ("⊘", "attention"),
    # deployments
    "STARTING": ("◐", "attention"),
    "READY": ("●", "good"),
    "DEGRADED": ("◐", "attention"),
    "DELETED": ("⊘", "faint"),
    # roll-outs
    "LOADING": ("◐", "attention"),
    "BAKING": ("●", "good"),
    "ROLLED_BACK": ("↩", "attention"),
    # services
    "ATTACHED": ("●", "good"),
    "DRAINING": ("◌", "attention"),
    "SUSPECT": ("◌", "attention"),
    "LOST": ("✗", "bad"),
    # plugins
    "ACTIVE": ("●", "good"),
    "DISABLED": ("○", "faint"),
    "INCOMPATIBLE": ("✗", "bad"),
    # the train-to-serve contract, and checks
    "VERIFIED": ("✓", "good"),
    "UNVERIFIED": ("?", "attention"),
    "REFUSED": ("✗", "bad"),
    "OK": ("✓", "good"),
    "WARNING": ("⚠", "attention"),
    "SKIPPED": ("·", "faint"),
    "INFO": ("·", "faint"),
}
_OTHER = ("·", "faint")


def state_symbol(state: str) -> Text:
    """Return the symbol of a state in its colour, with a space after it."""
    symbol, style = _STATES.get(state, _OTHER)
    return Text(f"{symbol} ", style=style)


def state_text(state: str, *, label: str | None = None) -> Text:
    """Return a state with its symbol and colour.

    Args:
        state: A state's name without its enum prefix.
        label: Shown instead of the name.
    """
    symbol, style = _STATES.get(state, _OTHER)
    return Text.assemble((symbol, style), " ", (label if label is not None else state, style))
