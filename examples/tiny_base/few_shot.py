"""Conversations whose rule stands in the conversation itself: follow the pattern of the examples.

The answer can only be found by looking back at one to three examples: labels are coined for each
conversation, JSON keys are renamed for each conversation. It is this skill that makes a comparison with
"the base with examples in the prompt" a fair one.
"""

import random
from collections.abc import Callable
from typing import Final

from conversation import Conversation, casual, chat, joined, one_line_json
from lexicon import COLOURS, GOODS, OPPOSITES, THINGS, TIERS, TROUBLES, coined_code, coined_name, coined_word
from sentences import draw_template, fact_sheet, slots_of

Pair = tuple[str, str]


def _present(rng: random.Random, pairs: list[Pair], *, system: str | None = None) -> Conversation:
    """Show all pairs but the last as examples: as earlier turns, or inside one message."""
    if rng.random() < 0.6:
        return chat(*(text for pair in pairs for text in pair), system=system)
    before, after = rng.choice((("Input: ", "\nOutput: "), ("Q: ", "\nA: "), ("", " => "), ("", " -> ")))
    shown = [f"{before}{asked}{after}{answer}" for asked, answer in pairs[:-1]]
    message = "\n".join([*shown, f"{before}{pairs[-1][0]}{after}".rstrip()])
    return chat(message, pairs[-1][1], system=system)


def _shots(rng: random.Random) -> int:
    return rng.choice((1, 2, 2, 3, 3))


def same_key_extraction(rng: random.Random) -> Conversation:
    """JSON with the keys of the examples, which are sometimes coined words."""
    template = draw_template(rng)
    slots = list(slots_of(template))
    rng.shuffle(slots)
    slots = slots[: rng.randint(1, 3)]
    keys = {slot: coined_word(rng) if rng.random() < 0.4 else slot for slot in slots}
    pairs: list[Pair] = []
    for _ in range(_shots(rng) + 1):
        sheet = fact_sheet(rng, template)
        pairs.append((sheet.text, one_line_json({keys[slot]: sheet.facts[slot] for slot in slots})))
    return _present(rng, pairs)


def _label(rng: random.Random) -> str:
    return rng.choice((coined_word, coined_code, coined_word))(rng)


def coined_labels(rng: random.Random) -> Conversation:
    """A label for each group of words, coined for this conversation; the last word's group was shown."""
    groups = rng.sample(tuple(_WORD_GROUPS.values()), 2)
    labels = [_label(rng) for _ in groups]
    order = [0, 1] + ([rng.randint(0, 1)] if rng.random() < 0.5 else [])
    rng.shuffle(order)
    order.append(rng.choice(order))
    words = [list(group) for group in groups]
    for group in words:
        rng.shuffle(group)
    return _present(rng, [(words[index].pop(), labels[index]) for index in order])


def shown_again(rng: random.Random) -> Conversation:
    """Look an earlier answer up: the last question is one of the examples."""
    asked = [
        rng.choice((coined_word, coined_code, coined_name, _noun))(rng) for _ in range(rng.randint(2, 3))
    ]
    answered = [_label(rng) for _ in asked]
    pairs = list(zip(asked, answered, strict=True))
    return _present(rng, [*pairs, rng.choice(pairs)])


def shown_json_again(rng: random.Random) -> Conversation:
    """Reports about things, whose JSON holds codes and labels coined for this conversation.

    Each part of the last report (thing, trouble, tier) stands in one of the examples, so its JSON can be put
    together from theirs.
    """
    goods, troubles, tiers = (list(rng.sample(pool, 2)) for pool in (GOODS, tuple(TROUBLES), TIERS))
    tables: list[dict[str, str | int]] = [
        {noun: coined_code(rng) for noun in goods},
        {trouble: coined_word(rng) for trouble in troubles},
        {tier: rng.choice((coined_word, _digit))(rng) for tier in tiers},
    ]
    keys = [coined_word(rng) for _ in tables]
    wanted = sorted(rng.sample(range(3), rng.randint(2, 3)))
    shown = [(goods[0], troubles[0], tiers[0]), (goods[1], troubles[1], tiers[1])]
    asked = [*shown, (rng.choice(goods), rng.choice(troubles), rng.choice(tiers))]
    frame = rng.choice(_FRAMES)
    pairs: list[Pair] = []
    for report in asked:
        story = rng.choice(TROUBLES[report[1]]).format(it=report[0])
        text = casual(rng, frame.format(name=coined_name(rng), story=story, tier=report[2]))
        pairs.append((text, one_line_json({keys[part]: tables[part][report[part]] for part in wanted})))
    listed = joined(rng, [keys[part] for part in wanted])
    system = rng.choice((None, f"Reply with JSON: {listed}.", f"JSON keys: {listed}."))
    return _present(rng, pairs, system=system)


def _digit(rng: random.Random) -> int:
    return rng.randint(1, 9)


def _noun(rng: random.Random) -> str:
    return rng.choice(THINGS).noun


def small_rule(rng: random.Random) -> Conversation:
    """One small rule on words, the same in all examples."""
    rule = rng.choice(_RULES)
    pairs: list[Pair] = []
    mark = coined_word(rng)
    for _ in range(_shots(rng) + 1):
        word = rng.choice((coined_word, _noun, coined_name))(rng)
        pairs.append((word, rule(word, mark)))
    return _present(rng, pairs)


def shown_opposites(rng: random.Random) -> Conversation:
    """Opposites without saying so."""
    pairs = [tuple(rng.sample(pair, 2)) for pair in rng.sample(OPPOSITES, _shots(rng) + 1)]
    return _present(rng, [(first, second) for first, second in pairs])


_FRAMES: Final = (
    "{tier} customer: {story}.",
    "{name} is a {tier} customer: {story}.",
    "{story}. {tier} member.",
    "{name} ({tier}): {story}",
    "hello, {story}. I am a {tier} customer.",
)
_RULES: Final[tuple[Callable[[str, str], str], ...]] = (
    lambda word, mark: f"{word} {word}",
    lambda word, mark: f"{mark} {word}",
    lambda word, mark: f"{word} {mark}",
    lambda word, mark: f"the {word}",
    lambda word, mark: f"{word}!",
    lambda word, mark: f'{{"{mark}": "{word}"}}',
    lambda word, mark: f"[{word}]",
)
_LARGE_KINDS: Final = (
    *("machine", "device", "furniture", "tool", "dish"),
    *("clothing", "vehicle", "fruit", "animal"),
)
_WORD_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    **{
        kind: tuple(thing.noun for thing in THINGS if thing.kind == kind)
        for kind in (
            "machine",
            "device",
            "furniture",
            "tool",
            "dish",
            "clothing",
            "vehicle",
            "fruit",
            "animal",
        )
    },
    "colour": COLOURS,
    **{name: tuple(saying.format(it="one") for saying in sayings) for name, sayings in TROUBLES.items()},
}
