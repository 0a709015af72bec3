"""Several rows in one sequence, each blind to the others.

Which rows share a sequence follows from their lengths (`tunefleet_core.data.packing`). Positions
begin anew with every row; where a batch has positions and no mask, and the model keeps no cache,
the library lets a token see its own row alone. A model that does not do so is found before the
first step: its answers to a packed row are held against those to the row alone.

Where attention reads positions itself (FlashAttention), and where routers would spread padding
over experts, a batch is one sequence without padding. Elsewhere sequences lie under each other:
a mask over all of them at once would grow with the square of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tunefleet_core.data import pack_rows
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import RenderedRow

__all__ = ["ROW_MASK", "PackingCollator", "packed_dataset", "require_isolation"]

ROW_MASK = "row_mask"
"""Name in a batch of what tells rows (1) from padding (0); the trainer takes it out again."""
_ISOLATED = 0.1
"""Share of the spread of logits that rounding may move them by; a row that is seen moves all of it."""
_TRIED_TOKENS = 256
_ROUTED = ("router_aux_loss_coef", "aux_loss_alpha")
"""Fields of a config whose model learns from how its routers spread tokens."""


def packed_dataset(rows: Sequence[RenderedRow], capacity: int) -> Dataset:
    """Return the sequences that rows fill; a capacity of 0 gives every row its own."""
    groups = (
        pack_rows([len(row.input_ids) for row in rows], capacity)
        if capacity
        else [[at] for at in range(len(rows))]
    )
    return Dataset.from_list([_sequence([rows[at] for at in group]) for group in groups])


class PackingCollator(DataCollatorForLanguageModeling):
    """Makes batches of packed sequences: positions that begin anew with every row, and no mask.

    A flat batch has shape (1, tokens), any other (sequences, longest).
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return `input_ids`, `labels` and `position_ids` of a batch, with ROW_MASK beside them."""
        batch = super().torch_call(examples)
        mask = batch.pop("attention_mask", None)
        batch[ROW_MASK] = torch.ones_like(batch["input_ids"]) if mask is None else mask
        return batch

    @classmethod
    def of(cls, tokenizer: Any, model: Any) -> PackingCollator:
        """Return a collator whose batches suit a model."""
        attention = str(getattr(model.config, "_attn_implementation", ""))
        routes = any(hasattr(model.config.get_text_config(), name) for name in _ROUTED)
        is_flat = routes or attention.startswith("flash")
        return cls(pad_token_id=tokenizer.pad_token_id, padding_free=is_flat, return_position_ids=not is_flat)


def require_isolation(model: Any, sequences: Dataset) -> None:
    """Prove that a packed row is answered as it is alone, on the first sequence with several rows.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED if it is not.
    """
    found = next(_pairs(sequences), None)
    if found is None:
        return
    first, second = found
    was_training = model.training
    model.eval()
    # With gradients on: a forward without them repacks 4-bit weights on some processors, for good.
    together = _logits(model, [first, second])[len(first) :]
    alone = _logits(model, [second])
    model.train(was_training)
    moved = ((together - alone).abs().mean() / alone.std()).item()
    if not moved < _ISOLATED:
        raise TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED,
            "train.method.sft.packing: this model lets rows of one sequence see each other: its answers "
            f"moved by {moved:.0%} of their spread when another row stood before.",
            hint="Leave train.method.sft.packing out.",
            metadata={"backend": "trl", "capability": "PACKING", "field": "train.method.sft.packing"},
        )


def _sequence(rows: Sequence[RenderedRow]) -> dict[str, list[int]]:
    ids, labels = [], []
    for row in rows:
        ids += row.input_ids
        # Nothing stands before the first token of a row: the row before must not predict it.
        labels += [-100, *row.labels()[1:]]
    return {"input_ids": ids, "labels": labels, "seq_lengths": [len(row.input_ids) for row in rows]}


def _pairs(sequences: Dataset) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the first two rows of every sequence that has them, cut to what tells."""
    for sequence in sequences:
        lengths, ids = sequence["seq_lengths"], sequence["input_ids"]
        if len(lengths) > 1:
            end = lengths[0] + lengths[1]
            yield ids[: lengths[0]][-_TRIED_TOKENS:], ids[lengths[0] : end][:_TRIED_TOKENS]


def _logits(model: Any, rows: list[list[int]]) -> torch.Tensor:
    ids = torch.tensor([[token for row in rows for token in row]], device=model.device)
    positions = torch.tensor([[at for row in rows for at in range(len(row))]], device=model.device)
    return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].detach().float()
