"""Batches of rendered answers, with the platform's own masks.

The library's collators train every token after the prompt. Ours train what the template marks, as
supervised training does: the answer and the token that ends it, never what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["LabelledCollator", "PairCollator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCollator:
    """Pairs to a batch: the chosen conversations first, then the rejected ones, filled up on the right."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
        masks = [row["chosen_mask"] for row in rows] + [row["rejected_mask"] for row in rows]
        return padded(ids, masks, pad=self.pad_token_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledCollator:
    """Labelled answers to a batch, each prompt also with the answer to another prompt.

    Those mismatched pairs tell how far the model has moved from its base in general (section 4.1
    of arXiv:2402.01306).
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = padded(
            [row["prompt_ids"] + row["answer_ids"] for row in rows],
            [[0] * len(row["prompt_ids"]) + row["answer_mask"] for row in rows],
            pad=self.pad_token_id,
        )
        mismatched = padded(
            [row["prompt_ids"] + row["other_ids"] for row in rows],
            [[0] * len(row["prompt_ids"]) + row["other_mask"] for row in rows],
            pad=self.pad_token_id,
        )
        batch |= {f"KL_{name}": value for name, value in mismatched.items()}
        batch["label"] = torch.tensor([row["label"] for row in rows])
        return batch


def padded(
    ids: Sequence[Sequence[int]], masks: Sequence[Sequence[int]], *, pad: int
) -> dict[str, torch.Tensor]:
    """Return ids, attention mask and loss mask of rows, each of shape (rows, longest)."""
    longest = max(len(row) for row in ids)
    fills = [longest - len(row) for row in ids]

    def filled(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        return torch.tensor([[*row, *[value] * fill] for row, fill in zip(rows, fills, strict=True)])

    return {
        "input_ids": filled(ids, pad),
        "attention_mask": filled([[1] * len(row) for row in ids], 0),
        "completion_mask": filled(masks, 0),
    }
