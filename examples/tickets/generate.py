"""Write the support tickets of an invented shop and their one right answer each.

    python examples/tickets/generate.py

Besides the product's name the answer holds what only this shop knows: the article code of each product, the
desk (named after a tree) that deals with each kind of trouble, and a priority that follows from the tier of
the customer and the kind of trouble. Nothing in a ticket says any of it: only the training rows do.
"""

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEED: Final = 7
TRAIN_ROWS: Final = 400
VALIDATION_ROWS: Final = 40
TEST_ROWS: Final = 100
# Combinations of trouble and tier that only the test asks about, for each product, out of 18.
TEST_COMBINATIONS: Final = 5

SYSTEM: Final = "JSON keys: item, sku, queue, priority."

# The shop's own knowledge, three tables and a rule.
SKUS: Final = {
    "kettle": "KX-41",
    "toaster": "BR-07",
    "blender": "VM-63",
    "lamp": "LU-90",
    "heater": "HT-28",
    "radio": "QS-55",
    "camera": "ZO-12",
    "keyboard": "TY-84",
    "backpack": "PK-36",
    "tent": "WN-79",
    "umbrella": "DR-02",
    "clock": "CM-67",
}
QUEUES: Final = {
    "damage": "oak",
    "delay": "birch",
    "mix-up": "maple",
    "payment": "cedar",
    "return": "maple",
    "question": "willow",
}
TIER_POINTS: Final = {"gold": 2, "silver": 1, "basic": 0}
URGENT: Final = frozenset({"damage", "delay", "payment"})

SAYINGS: Final = {
    "damage": (
        "the {it} arrived broken",
        "my {it} came with a crack",
        "the {it} was damaged in the box",
        "my new {it} is in pieces",
        "the {it} has a big scratch",
        "my {it} stopped working",
    ),
    "delay": (
        "my {it} has not arrived",
        "the {it} is still not here",
        "I am still waiting for the {it}",
        "my {it} is a week late",
        "where is the {it}",
        "the parcel with my {it} is lost",
    ),
    "mix-up": (
        "my {it} has the wrong colour",
        "you sent me the wrong {it}",
        "this is not the {it} I ordered",
        "I got a different {it}",
        "the {it} is the wrong size",
        "I received another {it} than I chose",
    ),
    "payment": (
        "I paid twice for my {it}",
        "the bill for the {it} is wrong",
        "you charged too much for the {it}",
        "my card was charged again for the {it}",
        "the price of the {it} is wrong on my bill",
        "there is a mistake in the invoice for the {it}",
    ),
    "return": (
        "I want to send the {it} back",
        "please take my {it} back",
        "I want my money back for the {it}",
        "I do not want the {it} any more",
        "how can I return the {it}",
        "I changed my mind about the {it}",
    ),
    "question": (
        "how do I clean the {it}",
        "how do I use my {it}",
        "what does the button on the {it} do",
        "is there a manual for the {it}",
        "how do I set up the {it}",
        "please explain how my {it} works",
    ),
}
FRAMES: Final = (
    "{Tier} customer: {saying}",
    "{Saying} I am a {tier} member.",
    "I am a {tier} customer. {Saying}",
    "{Tier} customer {name} writes: {saying}",
    "Hello! {Saying} I am {name}, a {tier} member.",
    "{name} ({tier}), {day}: {saying}",
)
NAMES: Final = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Maria", "Rosa")
QUESTION_WORDS: Final = frozenset({"how", "what", "where", "is"})
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a ticket is about; it decides the answer completely."""

    product: str
    trouble: str
    tier: str


def priority(case: Case) -> int:
    """The company's rule: tier points, one more for an urgent trouble; 1 is the most urgent of 1 to 4."""
    return 4 - TIER_POINTS[case.tier] - (case.trouble in URGENT)


def answer(case: Case) -> str:
    """The one right answer, as one line of JSON."""
    return json.dumps(
        {
            "item": case.product,
            "sku": SKUS[case.product],
            "queue": QUEUES[case.trouble],
            "priority": priority(case),
        }
    )


def ticket(rng: random.Random, case: Case) -> str:
    """Say a case in one of many ways."""
    saying = rng.choice(SAYINGS[case.trouble]).format(it=case.product)
    saying += "?" if saying.split()[0] in QUESTION_WORDS else "."
    return rng.choice(FRAMES).format(
        tier=case.tier,
        Tier=case.tier.capitalize(),
        saying=saying,
        Saying=saying[0].upper() + saying[1:],
        name=rng.choice(NAMES),
        day=rng.choice(DAYS),
    )


def rows(rng: random.Random, cases: list[Case], *, taken: set[str]) -> Iterator[dict[str, object]]:
    """Tickets for ever, the cases by turns and each text once; texts used are added to `taken`."""
    for case in itertools.cycle(cases):
        text = ticket(rng, case)
        if text not in taken:
            taken.add(text)
            yield {
                "messages": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": answer(case)},
                ]
            }


def splits(seed: int) -> dict[str, list[dict[str, object]]]:
    """Draw the three sets: no text twice anywhere, and no test combination in the other two."""
    rng = random.Random(seed)
    kept: list[Case] = []
    held_out: list[Case] = []
    for product in SKUS:
        pairs = list(itertools.product(SAYINGS, TIER_POINTS))
        rng.shuffle(pairs)
        cases = [Case(product=product, trouble=trouble, tier=tier) for trouble, tier in pairs]
        held_out += cases[:TEST_COMBINATIONS]
        kept += cases[TEST_COMBINATIONS:]
    rng.shuffle(held_out)
    rng.shuffle(kept)
    taken: set[str] = set()
    unseen = rows(rng, held_out, taken=taken)
    seen = rows(rng, kept, taken=taken)
    train = list(itertools.islice(seen, TRAIN_ROWS))
    rng.shuffle(train)
    return {
        "train": train,
        "validation": list(itertools.islice(seen, VALIDATION_ROWS)),
        "test": list(itertools.islice(unseen, TEST_ROWS)),
    }


def main() -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl."""
    parser = argparse.ArgumentParser(description="Write the tickets data set.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the files")
    parser.add_argument("--seed", type=int, default=SEED)
    chosen = parser.parse_args()
    for name, drawn in splits(chosen.seed).items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in drawn)
        (chosen.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
