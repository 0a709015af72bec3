"""Which version of a model a caller gets while a new one is rolled out.

A caller who is known by something falls, by a hash of it, on one of 10 000 places; the candidate
has the places below its share. So who has the candidate at 5 percent has it at 25 too, and nobody
goes back but by a roll-back. The hash is seeded by the roll-out: not always the same callers are first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

__all__ = ["SESSION_HEADER", "Split", "StickyBy", "caller_of", "is_for_candidate"]

SESSION_HEADER = "X-Session-Id"
StickyBy = Literal["user", "session", "none"]

_PLACES = 10_000
_USER = ("safety_identifier", "user")
_SESSION = ("prompt_cache_key",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How the callers of a model are spread over two versions; `fleet/v1` TrafficSplit.

    Attributes:
        rollout: Names the roll-out.
        is_candidate: Whether this is the version that is rolled out.
        sticky: What a caller is known by.
    """

    rollout: str
    is_candidate: bool
    sticky: StickyBy


def caller_of(sticky: StickyBy, fields: Mapping[str, object], session: str) -> str:
    """Return what a caller is known by; empty: by nothing.

    Args:
        sticky: What to go by first.
        fields: The request, as the client wrote it.
        session: What the client sent as `X-Session-Id`.
    """
    if sticky == "none":
        return ""
    user = _first(fields, _USER)
    session = session or _first(fields, _SESSION)
    return (user or session) if sticky == "user" else (session or user)


def is_for_candidate(rollout: str, caller: str, percent: int) -> bool:
    """Return whether a caller gets the candidate, which has this share; one who is unknown, by chance."""
    if not caller:
        return random.random() * 100 < percent
    digest = blake2b(caller.encode(errors="surrogatepass"), key=rollout.encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest) % _PLACES < percent * _PLACES // 100


def _first(fields: Mapping[str, object], names: tuple[str, ...]) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and value:
            return value
    return ""
