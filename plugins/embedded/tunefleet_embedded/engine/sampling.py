"""Choosing the next token of every row at once.

Each row draws from its own random stream and the draw inverts the cumulative distribution, so that a seeded
answer does not depend on which other rows share the batch.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy
import torch

from tunefleet_embedded.engine.sequence import Sequence, TokenLogprob


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """What the rows of a batch need, computed once per change of the batch instead of once per step."""

    rows: tuple[Sequence, ...]
    sampled: tuple[int, ...]
    penalised: tuple[int, ...]
    held: tuple[int, ...]
    with_logprobs: tuple[int, ...]
    alternatives: int
    temperatures: torch.Tensor
    top_ps: torch.Tensor | None
    device: torch.device


def plan_sampling(rows: Rows[Sequence], device: torch.device) -> SamplingPlan:
    """Sorts rows by what they need."""
    sampled = tuple(i for i, row in enumerate(rows) if not row.params.is_greedy)
    with_logprobs = tuple(i for i, row in enumerate(rows) if row.params.logprobs is not None)
    top_ps = [rows[i].params.top_p for i in sampled]
    return SamplingPlan(
        rows=tuple(rows),
        sampled=sampled,
        penalised=tuple(i for i, row in enumerate(rows) if row.params.has_penalties),
        held=tuple(i for i, row in enumerate(rows) if row.grammar is not None),
        with_logprobs=with_logprobs,
        alternatives=max((rows[i].params.logprobs or 0 for i in with_logprobs), default=0),
        temperatures=torch.tensor([rows[i].params.temperature for i in sampled], device=device).unsqueeze(-1),
        top_ps=torch.tensor(top_ps, device=device).unsqueeze(-1) if min(top_ps, default=1.0) < 1.0 else None,
        device=device,
    )


def sample(logits: torch.Tensor, plan: SamplingPlan) -> tuple[list[int], list[TokenLogprob | None]]:
    """Returns the next token of each row and its log-probability where asked for.

    `logits`: [rows, vocabulary].
    """
    raw = logits.float()
    scores = _penalise(raw, plan) if plan.penalised else raw
    if plan.held:
        scores = _hold_to_forms(scores, plan)
    token_ids: list[int] = scores.argmax(dim=-1).tolist()
    if plan.sampled:
        for i, token_id in zip(plan.sampled, _draw(scores, plan), strict=True):
            token_ids[i] = token_id
    for i in plan.penalised:
        counts = plan.rows[i].token_counts
        if counts is not None:
            counts[token_ids[i]] += 1
    logprobs: list[TokenLogprob | None] = [None] * len(token_ids)
    if plan.with_logprobs:
        chosen = [token_ids[i] for i in plan.with_logprobs]
        wanted = [plan.rows[i].params.logprobs or 0 for i in plan.with_logprobs]
        rows = raw if len(chosen) == len(token_ids) else raw[list(plan.with_logprobs)]
        for i, entry in zip(plan.with_logprobs, token_logprobs(rows, chosen, wanted), strict=True):
            logprobs[i] = entry
    return token_ids, logprobs


def token_logprobs(logits: torch.Tensor, token_ids: list[int], alternatives: list[int]) -> list[TokenLogprob]:
    """Log-probability of `token_ids[i]` under `logits[i]`, with the `alternatives[i]` most likely tokens."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    own = (
        logprobs.gather(-1, torch.tensor(token_ids, device=logits.device).unsqueeze(-1)).squeeze(-1).tolist()
    )
    most = min(max(alternatives, default=0), logprobs.shape[-1])
    if most == 0:
        return [TokenLogprob(token, value, ()) for token, value in zip(token_ids, own, strict=True)]
    best = logprobs.topk(most, dim=-1)
    return [
        TokenLogprob(token, value, tuple(zip(ids[:count], values[:count], strict=True)))
        for token, value, ids, values, count in zip(
            token_ids, own, best.indices.tolist(), best.values.tolist(), alternatives, strict=True
        )
    ]


def _penalise(scores: torch.Tensor, plan: SamplingPlan) -> torch.Tensor:
    """OpenAI's frequency and presence penalties: over the tokens generated so far, not the prompt."""
    scores = scores.clone()
    for i in plan.penalised:
        row = plan.rows[i]
        if row.token_counts is None:
            row.token_counts = torch.zeros(scores.shape[-1], device=scores.device)
            continue  # Nothing generated yet.
        scores[i] -= row.params.frequency_penalty * row.token_counts
        scores[i] -= row.params.presence_penalty * (row.token_counts > 0)
    return scores


def _hold_to_forms(scores: torch.Tensor, plan: SamplingPlan) -> torch.Tensor:
    """Make tokens impossible with which an answer would leave its form."""
    scores = scores.clone()
    for i in plan.held:
        grammar = plan.rows[i].grammar
        assert grammar is not None  # what `held` means
        if not grammar.error:
            bits = numpy.frombuffer(grammar.possible(), dtype=numpy.uint8)
            is_possible = torch.from_numpy(numpy.unpackbits(bits, bitorder="little")).bool()
            count = min(len(is_possible), scores.shape[-1])  # some models have more rows than tokens
            scores[i, count:] = float("-inf")
            scores[i, :count].masked_fill_(~is_possible[:count].to(scores.device), float("-inf"))
    return scores


def _draw(scores: torch.Tensor, plan: SamplingPlan) -> list[int]:
    rows = scores if len(plan.sampled) == len(plan.rows) else scores[list(plan.sampled)]
    probabilities = torch.softmax(rows / plan.temperatures, dim=-1)
    order = None
    if plan.top_ps is not None:
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        # The most likely token stays whatever top_p is.
        probabilities = probabilities.masked_fill((before >= plan.top_ps) & (before > 0), 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    draws = torch.tensor([[plan.rows[i].rng.random()] for i in plan.sampled], device=scores.device)
    target = draws * cumulative[:, -1:]
    picked = torch.searchsorted(cumulative, target, right=True)
    # float32 rounding may put the target on the very end: the last token with a probability takes it.
    last = (cumulative < cumulative[:, -1:]).sum(dim=-1, keepdim=True)
    picked = torch.minimum(picked, last)
    if order is not None:
        picked = order.gather(-1, picked)
    return picked.squeeze(-1).tolist()
