"""Measure what an engine will be held to: base and tuned numbers on prefixes of real rows.

Prefixes end inside answers, where the adapter was trained to speak: elsewhere base and
tuned model can agree, and nothing could be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.parity import TOP_TOKENS, NumbersRecord, TopLogprobs, TrainServeContract
from tunefleet_core.rendering import RenderedRow, Renderer, contract_record, reference_prefixes

__all__ = ["build_contract", "measure", "top_logprobs"]

_BATCH_LOGITS = 16_000_000
"""Logits of one forward pass over several prompts: 64 MB in float32."""


def build_contract(
    model: Any,
    renderer: Renderer,
    rows: Sequence[RenderedRow],
    *,
    spec: ResolvedSpec,
    dtype: str,
    base_numbers: Sequence[TopLogprobs] | None = None,
) -> TrainServeContract:
    """Measure a trained model and return the record to keep beside its weights.

    Args:
        model: The trained model; a PEFT model unless every weight was trained.
        renderer: Tokenizer and template of the run.
        rows: Rows to take reference prefixes from.
        spec: What was run.
        dtype: Number type the model computes in.
        base_numbers: What `measure` said of the base on the reference prefixes of these
            rows; None: measured now, without the adapter.
    """
    numbers = _number_records(model, reference_prefixes(rows), base_numbers)
    return contract_record(spec, renderer, rows, dtype=dtype, numbers=numbers)


def top_logprobs(model: Any, prompt: Sequence[int]) -> TopLogprobs:
    """Return the most likely next tokens of a prompt, from logits taken to float32."""
    return _top_logprobs(model, [prompt])[0]


@torch.inference_mode()
def _top_logprobs(model: Any, prompts: Sequence[Sequence[int]]) -> list[TopLogprobs]:
    """Return the same of several prompts at once.

    They are filled up on the right, where no causal model looks; single prompts and batches
    differ by the order of float32 sums alone, less than 1e-5.
    """
    lengths = [len(prompt) for prompt in prompts]
    rows = [[*prompt, *[0] * (max(lengths) - len(prompt))] for prompt in prompts]
    mask = [[1] * length + [0] * (max(lengths) - length) for length in lengths]
    ids = torch.tensor(rows, device=model.device)
    logits = model(
        input_ids=ids, attention_mask=torch.tensor(mask, device=model.device), use_cache=False
    ).logits
    logits = logits[:, -ids.shape[1] :]  # learned embeddings before a prompt have answers of their own
    last = logits[torch.arange(len(rows)), torch.tensor(lengths) - 1]
    logprobs = torch.log_softmax(last.float(), dim=-1)
    top = torch.topk(logprobs, min(TOP_TOKENS, logprobs.shape[-1]))
    found = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [TopLogprobs(token_ids=tuple(ids), logprobs=tuple(values)) for ids, values in found]


def measure(model: Any, prompts: Sequence[Sequence[int]]) -> list[TopLogprobs]:
    """Return the most likely next tokens of each prompt, with dropout off.

    In float32 several are taken at once; coarser types are rounded otherwise in a batch, so
    there each prompt is taken as an engine takes a single request.
    """
    was_training = model.training
    model.eval()
    try:
        size = 1
        if model.dtype == torch.float32 and prompts:
            longest = max(len(prompt) for prompt in prompts)
            size = max(1, _BATCH_LOGITS // (longest * model.config.get_text_config().vocab_size))
        batches = [prompts[first : first + size] for first in range(0, len(prompts), size)]
        return [top for batch in batches for top in _top_logprobs(model, batch)]
    finally:
        model.train(was_training)


def _number_records(
    model: Any, prefixes: Sequence[Sequence[int]], base_numbers: Sequence[TopLogprobs] | None
) -> tuple[NumbersRecord, ...]:
    if base_numbers is None:
        with model.disable_adapter():
            base_numbers = measure(model, prefixes)
    return tuple(
        NumbersRecord(prompt_token_ids=tuple(prefix), base=base, tuned=tuned)
        for prefix, base, tuned in zip(prefixes, base_numbers, measure(model, prefixes), strict=True)
    )
