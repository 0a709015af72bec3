"""Name the way a byte-level tokenizer splits text before it merges, as llama.cpp calls it.

The converter knows tokenizers by a digest of how they cut one text, so a tokenizer with
one token more is unknown to it. What matters to llama.cpp is the pattern alone, and that
stands in tokenizer.json. A wrong name would cut text into other tokens than in training:
that is looked for once the file is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["name_pre_tokenizer"]

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WITH_MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NAMES: dict[tuple[str, ...], str] = {
    (_WORDS + r"\p{N}" + _REST,): "qwen2",
    (_WORDS + r"\p{N}{1,3}" + _REST,): "llama-bpe",
    (_WITH_MARKS,): "qwen35",
    (_CASED,): "gpt-4o",
    (): "gpt-2",
}
"""Patterns of the splits before the bytes, to llama.cpp's names (llama_vocab, `tokenizer.ggml.pre`)."""


def name_pre_tokenizer(folder: Path) -> str:
    """Return llama.cpp's name of a folder's pre-tokenizer; empty if it is none that is known here."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return ""
    steps = list(_steps(json.loads(file.read_text(encoding="utf-8")).get("pre_tokenizer")))
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    splits = [step for step in steps if step.get("type") == "Split"]
    if len(byte_level) != 1 or len(steps) != len(byte_level) + len(splits):
        return ""
    if bool(byte_level[0].get("use_regex", True)) == bool(splits):
        return ""  # the pattern of ByteLevel itself on top of others, or none at all
    return _NAMES.get(tuple(str(step.get("pattern", {}).get("Regex", "")) for step in splits), "")


def _steps(pre_tokenizer: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(pre_tokenizer, dict):
        return
    if pre_tokenizer.get("type") == "Sequence":
        for part in pre_tokenizer.get("pretokenizers", ()):
            yield from _steps(part)
    else:
        yield pre_tokenizer
