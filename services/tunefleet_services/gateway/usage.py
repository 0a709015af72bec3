"""Find the counts of tokens at the end of an answer that is passed on as bytes."""

from __future__ import annotations

import re

__all__ = ["usage_at_end"]

# A quote inside a text of the answer is written \", so this key is never one that a model wrote.
_KEY = b'"usage"'
_PROMPT = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,12})\b')
_COMPLETION = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,12})\b')


def usage_at_end(tail: bytes) -> tuple[int, int] | None:
    """Return the tokens of prompt and completion; None if the engine did not count them.

    Args:
        tail: The last bytes of an answer, whole or a stream. Embeddings have no completion.
    """
    at = tail.rfind(_KEY)
    if at < 0:
        return None
    prompt, completion = _PROMPT.search(tail, at), _COMPLETION.search(tail, at)
    if prompt is None:
        return None  # `null`, as in the chunks before the last
    return int(prompt[1]), int(completion[1]) if completion else 0
