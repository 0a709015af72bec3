"""Names: variants as asked for, pre-tokenizers as their patterns stand in tokenizer.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_gguf.plugin import tunefleet_backends
from tunefleet_gguf.pre_tokenizer import name_pre_tokenizer
from tunefleet_gguf.variants import USUAL_VARIANT, VARIANTS, find_variant

_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _name(folder: Path, pre_tokenizer: object) -> str:
    (folder / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": pre_tokenizer}))
    return name_pre_tokenizer(folder)


def test_patterns_have_llama_cpp_s_names(tmp_path: Path) -> None:
    def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
        return {"type": "Sequence", "pretokenizers": list(parts)}

    bytes_alone = _byte_level(use_regex=False)
    assert _name(tmp_path, sequence(_split(_QWEN), bytes_alone)) == "qwen2"
    llama = _QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    assert _name(tmp_path, sequence(_split(llama), bytes_alone)) == "llama-bpe"
    assert _name(tmp_path, _byte_level(use_regex=True)) == "gpt-2"


def test_what_is_not_known_has_no_name(tmp_path: Path) -> None:
    assert name_pre_tokenizer(tmp_path) == ""
    for unknown in (
        None,
        {"type": "Metaspace"},
        {"type": "Sequence", "pretokenizers": [_split("x+"), _byte_level(use_regex=False)]},
        {"type": "Sequence", "pretokenizers": [_split(_QWEN), _byte_level(use_regex=True)]},
        _byte_level(use_regex=False),
    ):
        assert _name(tmp_path, unknown) == ""


def test_variants_are_found_by_name_and_the_nearest_is_told() -> None:
    assert find_variant("").name == USUAL_VARIANT
    with pytest.raises(TunefleetError, match="q4_k_m") as caught:
        find_variant("q4_km")
    assert caught.value.reason is Reason.FIELD_INVALID


def test_fewer_bits_may_cost_more() -> None:
    rising = sorted(VARIANTS.values(), key=lambda item: -item.bits_per_weight)
    assert rising[0].tolerance == min(item.tolerance for item in rising)
    assert rising[-1].tolerance == max(item.tolerance for item in rising)


def test_the_manifest_names_the_format_and_loads_nothing_heavy() -> None:
    (manifest,) = tunefleet_backends()
    assert list(manifest.exported_formats) == ["gguf"]
    assert "llama_cpp" not in sys.modules or "torch" in sys.modules
