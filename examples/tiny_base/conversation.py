"""What a conversation is here, and the small ways of writing one that every family shares."""

import json
import random
from collections.abc import Mapping

Conversation = list[dict[str, str]]


def chat(*texts: str, system: str | None = None) -> Conversation:
    """Turn texts into messages: user and assistant by turns, after the system message if there is one."""
    roles = ("user", "assistant")
    turns = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def sentence_case(text: str) -> str:
    """Begin with a capital, leave the rest as it is."""
    return text[:1].upper() + text[1:]


def casual(rng: random.Random, text: str) -> str:
    """The way people type: mostly with a capital, sometimes without."""
    return sentence_case(text) if rng.random() < 0.7 else text


def one_line_json(values: Mapping[str, str | int | None]) -> str:
    """JSON on one line with a space after each comma and colon."""
    return json.dumps(dict(values), ensure_ascii=False)


def joined(rng: random.Random, words: list[str]) -> str:
    """A list of words as people write one: with commas, or with `and` before the last."""
    if len(words) > 1 and rng.random() < 0.5:
        return f"{', '.join(words[:-1])} and {words[-1]}"
    return ", ".join(words)
