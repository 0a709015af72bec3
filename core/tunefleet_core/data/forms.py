"""The forms that rows have: which training methods take which, and how a wrong one is refused.

The names are those of the field: TRL's and the Hub's `messages`, `prompt`, `chosen`, `rejected`,
`completion`, `label`, `text`. A row of another form than the method takes is refused with what it looks
like and what the method wants, since nothing sensible can be trained from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from tunefleet_core.data.foreign import foreign_rows
from tunefleet_core.data.openai_rows import as_pair, is_question
from tunefleet_core.data.place import Place
from tunefleet_core.errors import TunefleetError

__all__ = [
    "COMPLETIONS",
    "LABELLED",
    "MESSAGES",
    "PAIRS",
    "PROMPTS",
    "TEXTS",
    "Form",
    "form_of",
    "form_of_method",
    "require_form",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of rows.

    Attributes:
        name: What such rows are, for people.
        keys: Fields that a row of it must have.
        methods: Training methods that take it.
        shape: How to write one, an imperative sentence.
    """

    name: str
    keys: tuple[str, ...]
    methods: tuple[str, ...]
    shape: str


MESSAGES = Form(
    name="conversations",
    keys=("messages",),
    methods=("sft",),
    shape='Write one object per line: {"messages": [{"role": "user", "content": "..."}, ...]}',
)
PAIRS = Form(
    name="preferences",
    keys=("chosen", "rejected"),
    methods=("dpo", "ipo", "orpo", "simpo", "reward"),
    shape='Write one object per line: {"prompt": [{"role": "user", "content": "..."}], '
    '"chosen": [{"role": "assistant", "content": "..."}], '
    '"rejected": [{"role": "assistant", "content": "..."}]}',
)
LABELLED = Form(
    name="labelled answers",
    keys=("prompt", "completion", "label"),
    methods=("kto",),
    shape='Write one object per line: {"prompt": [{"role": "user", "content": "..."}], '
    '"completion": [{"role": "assistant", "content": "..."}], "label": true}',
)
COMPLETIONS = Form(
    name="questions with answers",
    keys=("prompt", "completion"),
    methods=("sft",),
    shape='Write one object per line: {"prompt": [{"role": "user", "content": "..."}], '
    '"completion": [{"role": "assistant", "content": "..."}]}',
)
TEXTS = Form(
    name="texts",
    keys=("text",),
    methods=("sft",),
    shape='Write one object per line: {"text": "..."}',
)
PROMPTS = Form(
    name="prompts",
    keys=("prompt",),
    methods=("grpo", "rloo", "distill"),
    shape='Write one object per line: {"prompt": [{"role": "user", "content": "..."}], "answer": "..."}',
)
_FORMS = (MESSAGES, PAIRS, LABELLED, COMPLETIONS, PROMPTS, TEXTS)


def form_of(value: Mapping[str, object]) -> Form | None:
    """Return the form that the fields of a row tell; None: none of them."""
    if is_question(value):
        return PROMPTS
    row = as_pair(value)
    return next((form for form in _FORMS if all(key in row for key in form.keys)), None)


def form_of_method(method: str) -> Form:
    """Return the form that a training method takes; empty: `sft`, which takes several, this one first.

    Raises:
        TunefleetError: FIELD_INVALID for a method that is not known.
    """
    found = next((form for form in _FORMS if (method or "sft") in form.methods), None)
    if found is None:
        raise TunefleetError.field("train.method", f"what rows '{method}' takes is not known")
    return found


def require_form(place: Place, value: Mapping[str, object], wanted: Form) -> None:
    """Refuse a row that lacks a field of the form, saying what it looks like instead.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    missing = next((key for key in wanted.keys if key not in value), None)
    if missing is None:
        return
    near = difflib.get_close_matches(missing, value, n=1, cutoff=0.8)
    foreign = foreign_rows(value)
    if foreign is not None and not near:
        place.refuse(missing, f"is missing; this is {foreign.what}.", hint=foreign.hint)
    other = form_of(value)
    if other is not None and other is not wanted and not near:
        if set(other.methods) & set(wanted.methods):
            place.refuse(
                missing,
                f"is missing; the row is one of {other.name}, the rows before it are {wanted.name}.",
                hint="Give each form of rows a file of its own.",
            )
        *most, last = other.methods
        takes = f"{', '.join(most)} or {last}" if most else last
        fields = ", ".join(f"'{key}'" for key in other.keys)
        place.refuse(
            missing,
            f"is missing; rows with {fields} are {other.name}, which the method {takes} takes.",
            hint=f"Set train.method to {takes}, or: {wanted.shape}",
        )
    near = near or difflib.get_close_matches(missing, value, n=1, cutoff=0.6)
    instead = f"; the row has '{near[0]}' instead" if near else _what_there_is(value)
    place.refuse(missing, f"is missing{instead}.", hint=wanted.shape)


def _what_there_is(value: Mapping[str, object]) -> str:
    """Return the first fields of a row, as the end of a sentence; empty if it has none."""
    names = [repr(name if len(name) <= 30 else f"{name[:27]}...") for name in list(value)[:4]]
    return f"; the row has {', '.join(names)}{' and more' if len(value) > 4 else ''}" if names else ""
