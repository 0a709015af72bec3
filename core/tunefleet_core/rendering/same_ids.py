"""Whether a model that is read beside the base reads the same token ids, asked of the tokenizers alone."""

from __future__ import annotations

from typing import Any

from tunefleet.job.v1.resolved_pb2 import CompanionModel
from tunefleet_core.errors import TunefleetError
from tunefleet_core.rendering.tokenizer import load_tokenizer

__all__ = ["require_same_ids"]

_TEXTS = ("The quick brown fox: 3.14 * 2 = 6.28!", "Grüße, 你好, привет 🙂\n\n\tdef f(x): return x")


def require_same_ids(tokenizer: Any, companion: CompanionModel) -> None:
    """Refuse a model whose tokens are not those of the base.

    Raises:
        TunefleetError: FIELD_INVALID with the first difference; BASE_INVALID for a folder
            without a usable tokenizer.
    """
    other = load_tokenizer(companion.base)
    difference = _difference(tokenizer, other)
    if difference:
        raise TunefleetError.field(
            companion.field,
            f"has another tokenizer than the base: {difference}. Both read the same token ids",
            hint="Name a model of the base's own family, whose vocabulary is the same.",
        )


def _difference(one: Any, other: Any) -> str:
    mine, theirs = one.get_vocab(), other.get_vocab()
    for token, number in mine.items():
        if theirs.get(token) != number:
            has = f"as {theirs[token]}" if token in theirs else "not at all"
            return f"it knows {token!r} {has}, the base as {number}"
    if len(theirs) > len(mine):
        more = next(token for token in theirs if token not in mine)
        return f"it knows {more!r}, the base does not"
    for text in _TEXTS:
        if one.encode(text, add_special_tokens=False) != other.encode(text, add_special_tokens=False):
            return f"it splits {text[:20]!r} in another way"
    return ""
