"""Layers of a base as job files name them: read by the rules of specs, and where modules are chosen.

Apart from both, so that choosing modules needs no reader of job files.
"""

from __future__ import annotations

import re

__all__ = ["layer_range"]

_LAYERS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def layer_range(text: str) -> range | None:
    """Return the layers that a word such as `16-31` or `30` means; None if it means none.

    Example:
        >>> layer_range("2-4")
        range(2, 5)
    """
    found = _LAYERS.fullmatch(text.strip())
    if found is None:
        return None
    first, last = int(found[1]), int(found[2] or found[1])
    return range(first, last + 1) if first <= last else None
