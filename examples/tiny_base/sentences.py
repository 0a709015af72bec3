"""Sentences that state facts, together with the facts: the raw material of every JSON task.

A sheet's `slots` name what varies, `template` puts the slots into a sentence, and `keys` says what each
slot is called in JSON.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from conversation import casual
from lexicon import (
    CITIES,
    COLOURS,
    DAYS,
    GOODS,
    THINGS,
    TIERS,
    TROUBLES,
    coined_code,
    coined_name,
    coined_word,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FactSheet:
    """One sentence and what it states, by JSON key."""

    text: str
    facts: dict[str, str | int]


_SLOTS: Final[dict[str, Callable[[random.Random], str | int]]] = {
    "name": coined_name,
    "city": lambda rng: rng.choice(CITIES),
    "colour": lambda rng: rng.choice(COLOURS),
    "day": lambda rng: rng.choice(DAYS),
    "item": lambda rng: rng.choice(GOODS),
    "thing": lambda rng: rng.choice(THINGS).noun,
    "place": lambda rng: rng.choice(THINGS).place,
    "tier": lambda rng: rng.choice(TIERS),
    "code": coined_code,
    "word": coined_word,
    "count": lambda rng: rng.randint(2, 99),
    "price": lambda rng: rng.randint(2, 999),
    "age": lambda rng: rng.randint(5, 90),
    "trouble": lambda rng: rng.choice(tuple(TROUBLES)),
}

# A template's slots are its facts. `{story}` is a way of saying the slots `trouble` and `item`.
TEMPLATES: Final = (
    "{name} lives in {city}.",
    "{name} is {age} years old and comes from {city}.",
    "{name} bought a {colour} {item} on {day}.",
    "{name} from {city} called on {day} about the {item}.",
    "order {code}: a {item} for {name}.",
    "the code of the {colour} {item} is {code}.",
    "the {thing} in the {place} is {colour}.",
    "the {item} costs {price} and comes in {colour}.",
    "{name} has {count} pieces of {thing}.",
    "send {count} boxes to {name} in {city}.",
    "on {day} {name} travels to {city}.",
    "please write {word} and {code} on the {thing}.",
    "room {code} is kept for {name} until {day}.",
    "{name} is a {tier} customer from {city}.",
    "{tier} customer {name}: {story}.",
    "{name} writes: {story}.",
    "{tier} customer here, {story}.",
    "{story}, says {name} from {city}.",
    "{story}. I am a {tier} member.",
)


def draw_template(rng: random.Random) -> str:
    """Choose the shape of a sentence."""
    return rng.choice(TEMPLATES)


def slots_of(template: str) -> tuple[str, ...]:
    """Name the facts that a template states, in the order in which it states them."""
    marks = [part.split("}")[0] for part in template.split("{")[1:]]
    return tuple(slot for mark in marks for slot in (("item", "trouble") if mark == "story" else (mark,)))


def fact_sheet(rng: random.Random, template: str) -> FactSheet:
    """Fill a template with facts."""
    facts = {slot: _SLOTS[slot](rng) for slot in slots_of(template)}
    words: dict[str, str | int] = dict(facts)
    if "trouble" in facts:
        saying = rng.choice(TROUBLES[str(facts["trouble"])])
        words["story"] = saying.format(it=facts["item"])
    return FactSheet(text=casual(rng, template.format(**words)), facts=facts)
