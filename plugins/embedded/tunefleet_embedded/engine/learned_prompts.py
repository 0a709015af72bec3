"""Adapters of prompt tuning: learned embeddings that stand before a row's prompt.

They are read with the prompt and live on in the row's keys and values. From then on such a row is one
of the base, so it shares batches with rows of the base and of any LoRA adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tunefleet_embedded.engine.errors import AdapterRefused


class LearnedPrompts:
    """Which slots have embeddings. Belongs to the scheduler thread."""

    def __init__(self, model: Any, forward: Callable[..., Any]) -> None:
        """Keeps none yet. `forward` is the model's, told by its first argument whose each row is."""
        self._model = model
        self._forward = forward
        self._by_slot: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def attach(self, slot: str, embeddings: torch.Tensor) -> None:
        """Adds embeddings [tokens, width] and tries them; on failure `AdapterRefused`, and nothing stays."""
        try:
            learned = embeddings.to(self._model.device, self._model.dtype)
            logits = self._forward([None], inputs_embeds=learned.unsqueeze(0), use_cache=False).logits
        except Exception as error:
            raise AdapterRefused(f"The base cannot read the learned embeddings: {error}") from error
        if not torch.isfinite(logits).all():
            raise AdapterRefused("The adapter gives numbers that are not finite on this base.")
        self._by_slot[slot] = learned

    def detach(self, slot: str) -> bool:
        """Removes a slot; returns whether it was one of these."""
        return self._by_slot.pop(slot, None) is not None

    def count(self, slot: str | None) -> int:
        """The embeddings before the prompts of a slot."""
        learned = self._by_slot.get(slot) if slot is not None else None
        return 0 if learned is None else learned.shape[0]

    def lora_slot(self, slot: str | None) -> str | None:
        """The slot as LoRA knows it: None for the base, which a row with learned embeddings runs on."""
        return None if slot in self._by_slot else slot

    def inputs(
        self, ids: torch.Tensor, slots: Sequence[str | None], lengths: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """What the model is given for prompts that end at the right edge.

        Rows with learned embeddings and rows of adapters on the embedding layer do not go together.

        Args:
            ids: [rows, columns], with room on the left of each prompt for the embeddings before it.
            slots: Whose prompts these are.
            lengths: Tokens of each prompt, without its embeddings.
        """
        if not any(self.count(slot) for slot in slots):
            return {"input_ids": ids}
        own = self._model.get_input_embeddings()
        embeds = (own.get_base_layer() if isinstance(own, BaseTunerLayer) else own)(ids)
        for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            if count := self.count(slot):
                end = ids.shape[1] - length
                assert slot is not None
                embeds[row, end - count : end] = self._by_slot[slot]
        return {"inputs_embeds": embeds}
