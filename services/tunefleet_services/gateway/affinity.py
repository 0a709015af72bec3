"""What requests with one beginning have in common, so that they can go to the replica that has read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, cast

__all__ = ["affinity_of"]

_KEY_BYTES = 32
_MOST_CHARACTERS = 4096
"""Of one text; documents that differ later only are taken for one beginning, which they are."""
_PROMPT_CHARACTERS = 256
"""Of a bare prompt, which grows with every turn of a conversation."""


def affinity_of(model: str, fields: Mapping[str, Any]) -> bytes:
    """Return the key of a request; empty if it has nothing to go by.

    A client says it by `prompt_cache_key`, as with OpenAI. Else it is everything up to the first
    turn of the user, which every later turn of a conversation repeats.

    Args:
        model: The model inside the engine: what an adapter has read is of no use to another.
        fields: A request for a chat completion, a completion or a response, as the client wrote it.
    """
    named = fields.get("prompt_cache_key")
    texts = [named] if isinstance(named, str) and named else list(_opening(fields))
    if not texts:
        return b""
    digest = blake2b(model.encode(errors="surrogatepass"), digest_size=_KEY_BYTES)
    for text in texts:
        digest.update(b"\0" + text.encode(errors="surrogatepass"))
    return digest.digest()


def _opening(fields: Mapping[str, Any]) -> Iterator[str]:
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        yield prompt[:_PROMPT_CHARACTERS]
    if isinstance(instructions := fields.get("instructions"), str):
        yield instructions[:_MOST_CHARACTERS]
    turns: object = fields.get("messages", fields.get("input"))
    if isinstance(turns, str):
        yield turns[:_MOST_CHARACTERS]
    elif isinstance(turns, list):
        for turn in cast("list[object]", turns):
            if isinstance(turn, dict):
                item = cast("dict[str, object]", turn)
                yield from _texts(item.get("content"))
                if item.get("role") == "user":
                    return


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content[:_MOST_CHARACTERS]
    elif isinstance(content, list):
        for part in cast("list[object]", content):
            if isinstance(part, dict):
                item = cast("dict[str, object]", part)
                text = item.get("text")
                yield (text if isinstance(text, str) else str(item))[:_MOST_CHARACTERS]
