"""Log-probabilities that another process measured, on their way through JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunefleet_core.parity.contract import TopLogprobs

__all__ = ["tops_from_json", "tops_to_json"]


def tops_to_json(tops: Sequence[TopLogprobs]) -> list[dict[str, list[Any]]]:
    """Return numbers as JSON takes them, for `tops_from_json`."""
    return [{"token_ids": list(top.token_ids), "logprobs": list(top.logprobs)} for top in tops]


def tops_from_json(content: Sequence[Mapping[str, Sequence[Any]]]) -> list[TopLogprobs]:
    """Return what `tops_to_json` made JSON of."""
    return [
        TopLogprobs(token_ids=tuple(item["token_ids"]), logprobs=tuple(item["logprobs"])) for item in content
    ]
