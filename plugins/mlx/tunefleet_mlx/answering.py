"""Let a model answer while it is being trained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["likeliest_answer"]


def likeliest_answer(
    model: Any, prompt: Sequence[int], *, most_tokens: int, stops: Collection[int]
) -> list[int]:
    """Return the likeliest continuation of a prompt, token by token, without the stop.

    It draws no random number; the model's mode (training or not) is left as it was.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    was_training = model.training
    model.eval()
    cache = make_prompt_cache(model)
    answer: list[int] = []
    ids = list(prompt)
    try:
        for _ in range(most_tokens):
            token = int(mx.argmax(model(mx.array([ids]), cache=cache)[0, -1]).item())
            if token in stops:
                break
            answer.append(token)
            ids = [token]
    finally:
        model.train(was_training)
    return answer
