"""Synthetic conversations that teach a tiny model to talk.

Each family makes one kind of short conversation from a seeded generator: small talk, questions about
everyday things, sums, copying, JSON from a sentence, and the in-context families of `few_shot`.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import few_shot
from conversation import Conversation, casual, chat, joined, one_line_json, sentence_case
from lexicon import (
    COLOURS,
    FACTS,
    FIELDS,
    GOODS,
    KINDS,
    OPPOSITES,
    SMALL_TALK,
    THINGS,
    TROUBLES,
    Thing,
    coined_code,
    coined_name,
    coined_word,
)
from sentences import draw_template, fact_sheet

Family = Callable[[random.Random], Conversation]


def small_talk(rng: random.Random) -> Conversation:
    """Greetings, thanks, who are you; sometimes two exchanges."""
    texts: list[str] = []
    for _ in range(rng.choice((1, 1, 2))):
        asked, answers = rng.choice(SMALL_TALK)
        texts += [casual(rng, rng.choice(asked)) + rng.choice(("", "", "!", ".", "?")), rng.choice(answers)]
    return chat(*texts)


def world_fact(rng: random.Random) -> Conversation:
    """A question of general knowledge."""
    asked, answer = rng.choice(FACTS)
    return chat(casual(rng, asked), answer)


def _about(rng: random.Random, thing: Thing) -> tuple[str, str]:
    name = thing.with_article
    other = rng.choice((thing.kind, rng.choice(KINDS)))
    answer = "Yes" if other == thing.kind else "No"
    return rng.choice(
        (
            (f"what is {name}?", f"{sentence_case(name)} is a kind of {thing.kind}."),
            (f"what is {name} used for?", f"{sentence_case(name)} is used for {thing.use}."),
            (f"what do people do with {name}?", f"People use {name} for {thing.use}."),
            (f"where do you find {name}?", f"You find {name} in the {thing.place}."),
            (f"is {name} a kind of {other}?", f"{answer}, {name} is a kind of {thing.kind}."),
            (f"what is used for {thing.use}?", f"{sentence_case(name)} is used for {thing.use}."),
        )
    )


def thing_question(rng: random.Random) -> Conversation:
    """One or two questions about an everyday thing."""
    thing = rng.choice(THINGS)
    texts = [_about(rng, thing) for _ in range(rng.choice((1, 1, 2)))]
    return chat(*(casual(rng, part) for pair in texts for part in pair))


def trouble_question(rng: random.Random) -> Conversation:
    """What a sentence about a thing one bought is about: the trouble, the thing, or both."""
    noun, trouble = rng.choice(GOODS), rng.choice(tuple(TROUBLES))
    said = rng.choice(TROUBLES[trouble]).format(it=noun)
    asked, answer = rng.choice(
        (
            ("what is this about?", f"It is about {trouble}: {noun}."),
            ("what kind of problem is this?", trouble),
            ("which thing is meant?", noun),
            ("say it in other words:", sentence_case(rng.choice(TROUBLES[trouble]).format(it=noun)) + "."),
        )
    )
    return chat(f"{casual(rng, asked)} {casual(rng, said)}.", answer)


def opposite(rng: random.Random) -> Conversation:
    """The opposite of a word."""
    first, second = rng.sample(rng.choice(OPPOSITES), 2)
    asked = rng.choice((f"what is the opposite of {first}?", f"opposite of {first}"))
    return chat(casual(rng, asked), second)


def sums(rng: random.Random) -> Conversation:
    """Sums and differences of small numbers, bare or told as a story."""
    first, second = rng.randint(0, 9), rng.randint(0, 9)
    if rng.random() < 0.35 and first >= second:
        noun = rng.choice(THINGS).noun + "s"
        return chat(f"I have {first} {noun} and give away {second}. How many are left?", str(first - second))
    asked = rng.choice(("what is {} + {}?", "{} + {}", "{} + {} =", "how much is {} plus {}?"))
    return chat(casual(rng, asked.format(first, second)), str(first + second))


def copying(rng: random.Random) -> Conversation:
    """Say words, codes, numbers or a sentence back unchanged."""
    makers = (coined_word, coined_code, coined_name, lambda draw: str(draw.randint(10, 9999)))
    parts = [rng.choice(makers)(rng) for _ in range(rng.randint(1, 5))]
    text = " ".join(parts)
    if rng.random() < 0.3:
        text = fact_sheet(rng, draw_template(rng)).text
    asked = ("repeat: {}", "copy this: {}", "say {}", "write this again: {}", "repeat after me: {}")
    return chat(casual(rng, rng.choice(asked).format(text)), text)


def picking(rng: random.Random) -> Conversation:
    """Find one word in a list: the first, the last, the one after another."""
    words = [rng.choice((coined_word, coined_name, coined_code))(rng) for _ in range(rng.randint(3, 6))]
    index = rng.randrange(len(words) - 1)
    asked, answer = rng.choice(
        (
            ("what is the first word?", words[0]),
            ("what is the last word?", words[-1]),
            (f"what comes after {words[index]}?", words[index + 1]),
            (f"which word follows {words[index]}?", words[index + 1]),
        )
    )
    return chat(f"{' '.join(words)}\n{casual(rng, asked)}", answer)


def lookup(rng: random.Random) -> Conversation:
    """Answer from a small table that stands in the question."""
    nouns = rng.sample([thing.noun for thing in THINGS], rng.randint(2, 4))
    values = [rng.choice((coined_code, coined_word, lambda draw: draw.choice(COLOURS)))(rng) for _ in nouns]
    index = rng.randrange(len(nouns))
    table = ", ".join(f"{noun}: {value}" for noun, value in zip(nouns, values, strict=True))
    return chat(f"{table}. {casual(rng, f'what about the {nouns[index]}?')}", values[index])


_THING_BY_NOUN: Final = {thing.noun: thing for thing in THINGS}


def _implied(facts: Mapping[str, str | int]) -> dict[str, str]:
    """What one knows about the thing in a sentence without being told."""
    thing = _THING_BY_NOUN.get(str(facts.get("item", facts.get("thing"))))
    return {} if thing is None else {"kind": thing.kind, "use": thing.use}


def extraction(rng: random.Random) -> Conversation:
    """JSON from a sentence: stated facts, what they imply about the thing, null for the rest."""
    template = draw_template(rng)
    sheet = fact_sheet(rng, template)
    known = {**sheet.facts, **_implied(sheet.facts)}
    keys = list(known)
    rng.shuffle(keys)
    keys = keys[: rng.randint(1, 4)]
    if rng.random() < 0.2:
        unstated = rng.sample(FIELDS, rng.randint(1, 3))
        keys = rng.sample(keys, rng.randint(0, len(keys))) + unstated
    answer = one_line_json({key: known.get(key) for key in keys})
    wanted = joined(rng, keys)
    if rng.random() < 0.5:
        system = rng.choice(("Reply with JSON: {}.", "Answer in JSON with {}.", "JSON keys: {}.")).format(
            wanted
        )
        return chat(sheet.text, answer, system=system)
    asked = rng.choice(("write JSON with {}: {}", "find {} as JSON: {}", "reply with JSON: {}. {}"))
    return chat(casual(rng, asked.format(wanted, sheet.text)), answer)


def to_json(rng: random.Random) -> Conversation:
    """A plain list of keys and values as JSON; everything is copied."""
    count = rng.randint(1, 4)
    keys = [rng.choice((coined_word, lambda draw: draw.choice(THINGS).noun))(rng) for _ in range(count)]
    values = [rng.choice((coined_word, coined_code, coined_name))(rng) for _ in range(count)]
    listed = ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
    asked = rng.choice(("as JSON: {}", "turn this into JSON: {}", "JSON please: {}"))
    return chat(casual(rng, asked.format(listed)), one_line_json(dict(zip(keys, values, strict=True))))


# Weights say how often a family is drawn; looking back at the context needs the most practice.
FAMILIES: Final[dict[str, tuple[Family, float]]] = {
    "small talk": (small_talk, 3),
    "world facts": (world_fact, 2),
    "things": (thing_question, 8),
    "troubles": (trouble_question, 8),
    "opposites": (opposite, 2),
    "sums": (sums, 11),
    "copying": (copying, 7),
    "picking": (picking, 5),
    "lookup": (lookup, 6),
    "extraction": (extraction, 20),
    "to JSON": (to_json, 6),
    "few-shot extraction": (few_shot.same_key_extraction, 10),
    "few-shot labels": (few_shot.coined_labels, 8),
    "few-shot lookup": (few_shot.shown_again, 6),
    "few-shot JSON": (few_shot.shown_json_again, 14),
    "few-shot rules": (few_shot.small_rule, 8),
    "few-shot opposites": (few_shot.shown_opposites, 2),
}


def conversations(seed: int) -> Iterator[Conversation]:
    """Draw conversations for ever; the same seed gives the same ones."""
    rng = random.Random(seed)
    families = [family for family, _ in FAMILIES.values()]
    weights = [weight for _, weight in FAMILIES.values()]
    while True:
        yield rng.choices(families, weights)[0](rng)
