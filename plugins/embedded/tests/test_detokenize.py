"""Text comes out in whole characters, adds up to the whole, and ends before a stop string."""

from __future__ import annotations

import random

import pytest
from tiny_models import make_tokenizer

from tunefleet_embedded.engine.detokenize import TextStream
from tunefleet_embedded.engine.token_texts import TokenTexts

BACKEND = make_tokenizer().backend_tokenizer
TEXT = "naïve 東京 🙂🙃 family 👩‍👩‍👧 done"


def _byte_ids(text: str) -> list[int]:
    """One token per byte, so that every character of several bytes arrives in pieces."""
    texts = TokenTexts(BACKEND)
    by_byte = {
        texts.raw(token_id): token_id
        for token_id in range(BACKEND.get_vocab_size())
        if len(texts.raw(token_id)) == 1
    }
    return [by_byte[bytes([byte])] for byte in text.encode()]


def test_bytes_of_a_character_wait_for_each_other() -> None:
    stream = TextStream(BACKEND)
    pieces = [stream.push(token_id) for token_id in _byte_ids(TEXT)]
    assert "".join(pieces) + stream.finish() == TEXT
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert sum(1 for piece in pieces if piece) == len(TEXT)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_random_tokens_add_up_to_the_decoded_whole(seed: int) -> None:
    dice = random.Random(seed)
    ids = [dice.randrange(3, BACKEND.get_vocab_size()) for _ in range(80)]
    stream = TextStream(BACKEND)
    assert "".join(stream.push(token_id) for token_id in ids) + stream.finish() == BACKEND.decode(ids)


def test_an_unfinished_character_comes_out_at_the_end() -> None:
    stream = TextStream(BACKEND)
    assert "".join(stream.push(token_id) for token_id in _byte_ids("ab東")[:-1]) == "ab"
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_rubbish_does_not_hold_text_back_for_ever() -> None:
    stream = TextStream(BACKEND)
    rubbish = _byte_ids("é")[-1:]  # A continuation byte without its beginning.
    assert (
        "".join(stream.push(token_id) for token_id in rubbish * 20).count("\N{REPLACEMENT CHARACTER}") >= 16
    )


@pytest.mark.parametrize(
    ("text", "stop", "expected", "stopped"),
    [
        ("one two three", ("two",), "one ", True),
        ("one two three", ("x", " thr"), "one two", True),
        ("aaab", ("aab",), "a", True),
        ("one tw", ("two",), "one tw", False),
        ("a東b", ("東",), "a", True),
    ],
)
def test_text_ends_before_the_first_stop_string(
    text: str, stop: tuple[str, ...], expected: str, stopped: bool
) -> None:
    stream = TextStream(BACKEND, stop=stop)
    out = ""
    for token_id in _byte_ids(text):
        out += stream.push(token_id)
        if stream.is_stopped:
            break
    assert (out + stream.finish(), stream.is_stopped) == (expected, stopped)


def test_token_bytes_are_exact() -> None:
    texts = TokenTexts(BACKEND)
    ids = BACKEND.encode(TEXT).ids
    assert b"".join(texts.raw(token_id) for token_id in ids) == TEXT.encode()
