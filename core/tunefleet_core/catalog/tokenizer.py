"""Read a tokenizer's files as far as resolving needs them, without loading a tokenizer.

What is wanted of them: the chat template, the ids that end an answer, the ids of
special tokens, and a digest that changes when any id could change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, cast

from tunefleet_core.catalog.refusal import base_invalid, read_bounded, read_object

__all__ = ["TokenizerFacts", "is_token_id", "read_tokenizer", "tokenizer_digest"]

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_DIGESTED = (
    *_VOCABULARIES,
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """What a tokenizer's files say.

    Attributes:
        chat_template: Jinja source; empty if there is none.
        eos_token_ids: The tokenizer's own end token, if it has one.
        special_tokens: Special tokens, text to id.
        model_max_length: Longest input the tokenizer was saved for; 0 if unsaid.
        digest: See `tokenizer_digest`.
    """

    chat_template: str
    eos_token_ids: tuple[int, ...]
    special_tokens: Mapping[str, int]
    model_max_length: int
    digest: str


def read_tokenizer(folder: Path) -> TokenizerFacts:
    """Read the tokenizer files of a model folder.

    Raises:
        TunefleetError: BASE_INVALID if there is no tokenizer or a file is damaged.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise base_invalid(
            f"'{folder}' has no tokenizer: no tokenizer.json, tokenizer.model or vocab.json.",
            hint="Save the tokenizer into the folder: tokenizer.save_pretrained(FOLDER) in transformers.",
            path=folder,
        )
    config = _object(folder / "tokenizer_config.json")
    tokenizer = _object(folder / "tokenizer.json")
    ids = dict(_added_tokens(tokenizer, config))
    eos = _token_text(config.get("eos_token"))
    eos_id = ids[eos][0] if eos in ids else _vocabulary_id(tokenizer, eos)
    length = config.get("model_max_length")
    return TokenizerFacts(
        chat_template=_chat_template(folder, config),
        eos_token_ids=() if eos_id is None else (eos_id,),
        special_tokens={text: token_id for text, (token_id, is_special) in ids.items() if is_special},
        # transformers writes 1e30 for "unknown"
        model_max_length=length if isinstance(length, int) and 0 < length < 2**31 else 0,
        digest=tokenizer_digest(folder),
    )


def tokenizer_digest(folder: Path) -> str:
    """Return the SHA-256 over the tokenizer files of a folder, 64 hex digits.

    Names and contents count. A separate chat_template.jinja does not: the template
    that is used has a digest of its own.
    """
    digest = hashlib.sha256()
    for name in sorted(_DIGESTED):
        path = folder / name
        if path.is_file():
            content = read_bounded(path, limit_bytes=_MAX_BYTES)
            digest.update(name.encode() + b"\0" + len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def is_token_id(value: object) -> TypeGuard[int]:
    """Return whether a value of a JSON file can be a token id: an int32 that is not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _object(path: Path) -> dict[str, object]:
    return read_object(path, limit_bytes=_MAX_BYTES) if path.is_file() else {}


def _mapping(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _added_tokens(
    tokenizer: Mapping[str, object], config: Mapping[str, object]
) -> Iterator[tuple[str, tuple[int, bool]]]:
    """Yield (text, (id, is special)); tokenizer.json comes last, because it is what encodes."""
    for key, value in _mapping(config.get("added_tokens_decoder")).items():
        token = _mapping(value)
        text = token.get("content")
        if isinstance(text, str) and key.isdecimal() and is_token_id(token_id := int(key[:11])):
            yield text, (token_id, token.get("special") is True)
    for value in _items(tokenizer.get("added_tokens")):
        token = _mapping(value)
        text, token_id = token.get("content"), token.get("id")
        if isinstance(text, str) and is_token_id(token_id):
            yield text, (token_id, token.get("special") is True)


def _token_text(value: object) -> str:
    """Return the text of a token that is saved as a string or as an object."""
    text = _mapping(value).get("content", value)
    return text if isinstance(text, str) else ""


def _vocabulary_id(tokenizer: Mapping[str, object], text: str) -> int | None:
    vocabulary = _mapping(tokenizer.get("model")).get("vocab")
    token_id = _mapping(vocabulary).get(text)
    if is_token_id(token_id):
        return token_id
    for index, entry in enumerate(_items(vocabulary)):  # Unigram: a list of [text, score]
        if _items(entry)[:1] == [text]:
            return index
    return None


def _chat_template(folder: Path, config: Mapping[str, object]) -> str:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        try:
            return read_bounded(jinja, limit_bytes=1024 * 1024).decode("utf-8")
        except UnicodeDecodeError as error:
            raise base_invalid(f"'{jinja}' is not UTF-8.", hint="Save it as UTF-8.", path=jinja) from error
    template = config.get("chat_template")
    for entry in _items(template):  # several named templates: the default one is meant
        if _mapping(entry).get("name") == "default":
            template = _mapping(entry).get("template")
    return template if isinstance(template, str) else ""
