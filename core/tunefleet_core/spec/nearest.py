"""Name what a person probably meant: close spellings of words and of spec fields."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from google.protobuf.descriptor import Descriptor

from tunefleet_core.spec.descriptors import fields_of, is_map, message_type

__all__ = ["did_you_mean", "field_hint"]


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest of `words`, or nothing."""
    near = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def field_hint(name: str, message: Descriptor, root: Descriptor) -> str:
    """Return `; did you mean 'x'?` for an unknown field of `message`.

    A field of that very name elsewhere in the file wins over a close spelling here:
    `learning_rate` under `train` belongs to `train.optim`.
    """
    elsewhere = {path.rpartition(".")[2]: path for path in _paths(root, "")}
    if name in elsewhere:
        return f"; did you mean '{elsewhere[name]}'?"
    here = did_you_mean(name, [field.name for field in fields_of(message)])
    if here:
        return here
    near = difflib.get_close_matches(name.lower(), elsewhere, n=1, cutoff=0.75)
    return f"; did you mean '{elsewhere[near[0]]}'?" if near else ""


def _paths(message: Descriptor, prefix: str) -> Iterator[str]:
    for field in fields_of(message):
        yield f"{prefix}{field.name}"
        inner = message_type(field)
        if inner is not None and not is_map(field) and inner.file.package.startswith("tunefleet"):
            yield from _paths(inner, f"{prefix}{field.name}.")
