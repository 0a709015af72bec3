"""The words the tiny base model grows up with.

Everyday things and what they are for, people, places and the ordinary phrases for what can go wrong with
a thing bought in a shop. Company knowledge (article codes, desks, rules) is left out on purpose: a model
tuned later must learn that from its own training rows.
"""

import random
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One everyday thing: its noun, its kind, what it is used for and where it is found."""

    noun: str
    kind: str
    use: str
    place: str

    @property
    def with_article(self) -> str:
        """The noun with `a` or `an`."""
        return with_article(self.noun)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def with_article(noun: str) -> str:
    """Put `a` or `an` in front of a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


_THINGS: Final = """
kettle|machine|boiling water|kitchen
toaster|machine|making toast|kitchen
blender|machine|mixing fruit|kitchen
oven|machine|baking bread|kitchen
fridge|machine|keeping food cold|kitchen
heater|machine|warming a room|living room
fan|machine|cooling a room|bedroom
lamp|light|lighting a room|living room
candle|light|lighting a table|dining room
torch|light|seeing in the dark|tent
radio|device|hearing the news|kitchen
camera|device|taking pictures|bag
phone|device|calling friends|pocket
keyboard|device|typing text|office
printer|device|printing letters|office
clock|device|telling the time|hall
watch|device|telling the time|pocket
speaker|device|playing music|living room
chair|furniture|sitting|dining room
table|furniture|eating dinner|dining room
sofa|furniture|resting|living room
bed|furniture|sleeping|bedroom
desk|furniture|working|office
shelf|furniture|holding books|office
mirror|furniture|seeing yourself|hall
hammer|tool|hitting nails|garage
saw|tool|cutting wood|garage
spade|tool|digging holes|garden
rake|tool|moving leaves|garden
drill|tool|making holes|garage
ladder|tool|climbing up|garage
knife|tool|cutting bread|kitchen
spoon|tool|eating soup|kitchen
fork|tool|eating salad|kitchen
cup|dish|drinking tea|kitchen
plate|dish|serving food|kitchen
bowl|dish|holding soup|kitchen
bottle|dish|carrying water|bag
backpack|bag|carrying books|hall
suitcase|bag|packing clothes|bedroom
basket|bag|carrying fruit|garden
tent|shelter|sleeping outside|forest
umbrella|shelter|staying dry|hall
coat|clothing|keeping warm|hall
hat|clothing|covering the head|hall
shoe|clothing|walking|hall
glove|clothing|keeping hands warm|pocket
scarf|clothing|keeping warm|hall
shirt|clothing|looking neat|bedroom
bicycle|vehicle|riding to work|garage
car|vehicle|driving to town|street
bus|vehicle|going to school|street
train|vehicle|travelling far|station
boat|vehicle|crossing water|harbour
apple|fruit|eating|garden
pear|fruit|eating|garden
plum|fruit|making jam|garden
lemon|fruit|making juice|kitchen
cherry|fruit|baking cake|garden
cat|animal|catching mice|house
dog|animal|guarding the house|house
horse|animal|riding|farm
cow|animal|giving milk|farm
hen|animal|laying eggs|farm
sheep|animal|giving wool|farm
book|paper|reading|library
letter|paper|sending news|office
map|paper|finding the way|car
ticket|paper|riding the train|pocket
pencil|pen|drawing|school
brush|pen|painting|school
guitar|instrument|playing songs|living room
piano|instrument|playing songs|school
drum|instrument|keeping the beat|school
oak|tree|building ships|forest
birch|tree|making paper|forest
maple|tree|making syrup|forest
cedar|tree|making boxes|forest
willow|tree|making baskets|garden
pine|tree|building houses|forest
elm|tree|making chairs|street
"""

THINGS: Final = tuple(
    Thing(noun=noun, kind=kind, use=use, place=place)
    for noun, kind, use, place in (line.split("|") for line in _THINGS.split("\n") if line)
)
KINDS: Final = tuple(sorted({thing.kind for thing in THINGS}))
GOODS: Final = tuple(
    thing.noun
    for thing in THINGS
    if thing.kind in ("machine", "light", "device", "furniture", "bag", "shelter", "tool", "clothing")
)

NAMES: Final = _words(
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karin Leo Maria Nils Olga Paul Rosa Simon Tom Vera "
    "Will Yara Zoe Adam Bella Carl Dora Eric Fiona Gina"
)
CITIES: Final = _words(
    "Oslo Rome Paris Berlin Madrid London Vienna Prague Dublin Lisbon Athens Bern Warsaw Turin Lyon Porto"
)
COLOURS: Final = _words("red blue green yellow black white brown grey pink orange purple silver gold")
DAYS: Final = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
TIERS: Final = _words("gold silver basic")
OPPOSITES: Final = tuple(
    tuple(pair.split("-"))
    for pair in _words(
        "hot-cold big-small fast-slow old-new wet-dry full-empty open-closed high-low long-short "
        "light-dark happy-sad early-late good-bad hard-soft loud-quiet clean-dirty near-far rich-poor"
    )
)
# Words that forms and tables use for their fields.
FIELDS: Final = _words(
    "sku queue priority status level title owner number total stock brand model size weight shop team desk "
    "branch group rank score grade note label type state order date time mail street country language "
    "topic reason amount"
)
FACTS: Final = (
    ("What colour is the sky?", "The sky is blue."),
    ("What colour is grass?", "Grass is green."),
    ("What colour is snow?", "Snow is white."),
    ("What colour is a lemon?", "A lemon is yellow."),
    ("How many days are in a week?", "A week has seven days."),
    ("How many legs does a dog have?", "A dog has four legs."),
    ("How many months are in a year?", "A year has twelve months."),
    ("What do bees make?", "Bees make honey."),
    ("What do cows eat?", "Cows eat grass."),
    ("Where does the sun rise?", "The sun rises in the east."),
    ("What is ice?", "Ice is frozen water."),
    ("What falls from clouds?", "Rain falls from clouds."),
    ("When do we sleep?", "We sleep at night."),
    ("What comes after Monday?", "Tuesday comes after Monday."),
    ("What comes after spring?", "Summer comes after spring."),
)
SMALL_TALK: Final = (
    (
        ("hello", "hi", "hey", "good morning", "good evening", "hello there", "hi there"),
        ("Hello! How can I help you?", "Hi! What can I do for you?"),
    ),
    (
        ("how are you", "how do you do", "are you well", "how is it going"),
        ("I am fine, thank you. And you?", "I am well, thanks for asking."),
    ),
    (
        ("who are you", "what are you", "what is your name", "tell me about yourself"),
        ("I am a very small language model.",),
    ),
    (
        ("what can you do", "how can you help me", "can you help me"),
        ("I can answer short questions, copy text and write small JSON.",),
    ),
    (("thank you", "thanks", "thanks a lot", "thank you very much"), ("You are welcome!", "Any time!")),
    (
        ("bye", "goodbye", "see you", "good night", "see you later"),
        ("Goodbye! Have a nice day.", "See you soon!"),
    ),
    (("tell me a joke", "do you know a joke"), ("Why did the clock stop? It needed time to rest.",)),
)

# What can go wrong with a thing one has bought: the plain name of the trouble, then ways of saying it.
# `{it}` is the noun. These are ordinary English; nothing here says who in a shop would deal with it.
TROUBLES: Final[dict[str, tuple[str, ...]]] = {
    "damage": (
        "the {it} arrived broken",
        "the {it} came with a crack",
        "my {it} was damaged in the box",
        "the new {it} is in pieces",
        "the {it} has a big scratch",
        "my {it} stopped working at once",
        "the {it} was smashed",
        "a part of my {it} snapped off",
    ),
    "delay": (
        "the {it} has not arrived",
        "my {it} is still not here",
        "I am waiting for my {it}",
        "the {it} is a week late",
        "where is my {it}",
        "the parcel with the {it} is lost",
        "the {it} never came",
        "nobody delivered my {it}",
    ),
    "mix-up": (
        "the {it} has the wrong colour",
        "you sent the wrong {it}",
        "this is not the {it} I ordered",
        "I got a different {it}",
        "the {it} is the wrong size",
        "I received another {it} than I chose",
        "the box held some other {it}",
        "somebody swapped my {it}",
    ),
    "payment": (
        "I paid twice for the {it}",
        "the bill for the {it} is wrong",
        "you charged too much for the {it}",
        "my card was charged again for the {it}",
        "the price of the {it} is not right on my bill",
        "there is a mistake in the invoice for my {it}",
        "my discount on the {it} is missing",
        "the {it} cost more than it should",
    ),
    "return": (
        "I want to send the {it} back",
        "please take the {it} back",
        "I would like my money back for the {it}",
        "I do not want the {it} any more",
        "how can I return the {it}",
        "I changed my mind about the {it}",
        "can I give the {it} back",
        "a refund for the {it} please",
    ),
    "question": (
        "how do I clean the {it}",
        "how do I use the {it}",
        "what does the button on the {it} do",
        "is there a manual for the {it}",
        "how do I set up my {it}",
        "can I keep the {it} outside",
        "please explain how the {it} works",
        "how long does the {it} last",
    ),
}

_SYLLABLES: Final = _words(
    "ba be bo da de di do fa fi ga go ka ki ko la le li lo ma mi mo na ne no pa pi po ra ri ro sa se si so "
    "ta te ti to va ve vi za zo lum tor ven mar sil nor dan kel pin rus"
)
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_CAPITALS: Final = _LETTERS.upper()


def coined_word(rng: random.Random) -> str:
    """A word without a meaning here, so that it can only be copied, never guessed.

    Mostly syllables; sometimes bare letters, so that every token gets practice; sometimes a plain word.
    """
    draw = rng.random()
    if draw < 0.15:
        return "".join(rng.choice(_LETTERS) for _ in range(rng.randint(3, 6)))
    if draw < 0.35:
        return rng.choice(FIELDS) if draw < 0.25 else rng.choice(THINGS).noun
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((2, 2, 3))))


def coined_code(rng: random.Random) -> str:
    """A code of capitals and digits in one of several shapes, such as `QF-27` or `B4071`."""
    letters = "".join(rng.choice(_CAPITALS) for _ in range(rng.choice((1, 2, 2, 3))))
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice((2, 2, 3, 4))))
    return f"{letters}{rng.choice(('-', '-', ''))}{digits}"


def coined_name(rng: random.Random) -> str:
    """A first name: one of the known ones or a new one."""
    return rng.choice(NAMES) if rng.random() < 0.5 else coined_word(rng).capitalize()
