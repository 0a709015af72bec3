"""What a loaded model answers to prompts: the numbers that serving is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunefleet_core.parity import TOP_TOKENS, TopLogprobs

__all__ = ["top_logprobs"]


def top_logprobs(model: Any, prompts: Sequence[Sequence[int]]) -> list[TopLogprobs]:
    """Return the most likely next tokens of each prompt, best first, from logits taken to float32.

    Each prompt is taken as an engine takes a single request, with dropout off. Several at once were
    slower on a processor: there a pass costs what its tokens do, filling included.
    """
    import mlx.core as mx

    was_training = model.training
    model.eval()
    found: list[tuple[Any, Any]] = []
    for prompt in prompts:
        logits = model(mx.array([list(prompt)]))[0, -1].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits)
        best = mx.argsort(-logprobs)[:TOP_TOKENS]
        found.append((best, logprobs[best]))
        mx.async_eval(*found[-1])  # no waiting for the thread that computes, between one and the next
    model.train(was_training)
    return [
        TopLogprobs(token_ids=tuple(ids.tolist()), logprobs=tuple(values.tolist())) for ids, values in found
    ]
