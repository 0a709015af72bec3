"""Forwards of the running batch: prefill of newcomers, one decode step for everyone."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from transformers.cache_utils import DynamicCache

from tunefleet_embedded.engine.adapter_files import AdapterFiles, PromptFiles
from tunefleet_embedded.engine.kv_batch import KvBatch
from tunefleet_embedded.engine.learned_prompts import LearnedPrompts
from tunefleet_embedded.engine.lora_router import LoraRouter
from tunefleet_embedded.engine.model import BaseModel
from tunefleet_embedded.engine.sampling import SamplingPlan, plan_sampling, sample, token_logprobs
from tunefleet_embedded.engine.sequence import Sequence, TokenLogprob

# Prompt positions whose log-probabilities are computed at once for an echo: bounds the copies of the logits.
_ECHO_POSITIONS = 256


class LongPrompt:
    """A prompt read in chunks, so that the answers of others go on between them."""

    def __init__(self, row: Sequence) -> None:
        self.row = row
        self.cache = DynamicCache()
        self.read_tokens = 0


class BatchRunner:
    """Holds the rows that run and their cache. Every method belongs to the scheduler thread."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self.router = LoraRouter(base.model, device=base.device)
        self.prompts = LearnedPrompts(base.model, self.router.forward)
        self._kv = KvBatch(device=base.device, dtype=base.dtype)
        self.rows: list[Sequence] = []
        self._slots: list[str | None] = []
        self._plan: SamplingPlan | None = None

    @property
    def cached_rows(self) -> int:
        """Rows in the cache; differs from `rows` only if a prefill failed half-way."""
        return self._kv.rows

    def attach(self, slot: str, files: AdapterFiles | PromptFiles) -> None:
        """Adds an adapter and tries it; on any failure all is as before and `AdapterRefused` says why."""
        if isinstance(files, PromptFiles):
            self.prompts.attach(slot, files.embeddings)
        else:
            self.router.attach(slot, files.config, files.tensors)

    def detach(self, slot: str) -> None:
        """Removes an adapter and its memory. Does nothing for an unknown slot."""
        if not self.prompts.detach(slot):
            self.router.detach(slot)

    @torch.inference_mode()
    def prefill(self, newcomers: Rows[Sequence]) -> list[tuple[int, TokenLogprob | None]]:
        """Reads the newcomers' prompts in one forward, makes them rows, returns the first token of each."""
        slots = [row.slot for row in newcomers]
        own = [len(row.prompt_ids) for row in newcomers]
        lengths = [length + self.prompts.count(slot) for length, slot in zip(own, slots, strict=True)]
        width = max(lengths)
        padded = [[0] * (width - len(row.prompt_ids)) + row.prompt_ids for row in newcomers]
        ids = torch.tensor(padded, device=self._base.device)
        mask = positions = None
        if min(lengths) < width:
            columns = torch.arange(width, device=self._base.device)
            first = torch.tensor([width - length for length in lengths], device=self._base.device).unsqueeze(
                -1
            )
            mask = (columns >= first).long()
            positions = (columns - first).clamp_min(0)
        cache = DynamicCache()
        echo = any(row.params.prompt_logprobs for row in newcomers)
        logits = self.router.forward(
            [self.prompts.lora_slot(slot) for slot in slots],
            **self.prompts.inputs(ids, slots, own),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if echo else 1,
        ).logits
        if echo:
            for i, row in enumerate(newcomers):
                if row.params.prompt_logprobs:
                    row.prompt_logprobs = _prompt_logprobs(row, logits[i, width - own[i] :], 0)
        tokens, logprobs = sample(logits[:, -1], plan_sampling(newcomers, self._base.device))
        self._add_rows(newcomers, cache, lengths)
        return list(zip(tokens, logprobs, strict=True))

    @torch.inference_mode()
    def read_chunk(self, prompt: LongPrompt, tokens: int) -> tuple[int, TokenLogprob | None] | None:
        """Reads the next chunk of a long prompt.

        After the last one it is a row, and its first token is returned.
        """
        row, start = prompt.row, prompt.read_tokens
        chunk = row.prompt_ids[start : start + tokens]
        learned = self.prompts.count(row.slot)
        before = 0 if start else learned  # read with the first chunk
        first, end = (start + learned if start else 0), start + learned + len(chunk)
        ids = torch.tensor([[0] * before + chunk], device=self._base.device)
        logits = self.router.forward(
            [self.prompts.lora_slot(row.slot)],
            **(self.prompts.inputs(ids, [row.slot], [len(chunk)]) if before else {"input_ids": ids}),
            position_ids=torch.arange(first, end, device=self._base.device).unsqueeze(0),
            past_key_values=prompt.cache,
            use_cache=True,
            logits_to_keep=0 if row.params.prompt_logprobs else 1,
        ).logits
        if row.params.prompt_logprobs:
            row.prompt_logprobs += _prompt_logprobs(row, logits[0, before:], start)
        prompt.read_tokens += len(chunk)
        if prompt.read_tokens < len(row.prompt_ids):
            return None
        tokens_and_logprobs = sample(logits[:, -1], plan_sampling([row], self._base.device))
        self._add_rows([row], prompt.cache, [len(row.prompt_ids) + learned])
        (token_id,), (logprob,) = tokens_and_logprobs
        return token_id, logprob

    def _add_rows(self, rows: Rows[Sequence], cache: DynamicCache, lengths: list[int]) -> None:
        self._kv.join(cache, lengths)
        self.rows += rows
        self._slots += [self.prompts.lora_slot(row.slot) for row in rows]
        self._plan = None

    @torch.inference_mode()
    def decode(self) -> list[tuple[int, TokenLogprob | None]]:
        """One step for all rows; returns the next token of each, in row order."""
        if self._plan is None:
            self._plan = plan_sampling(self.rows, self._base.device)
        self._kv.prepare_step()
        ids = torch.tensor([[row.token_ids[-1]] for row in self.rows], device=self._base.device)
        logits = self.router.forward(
            self._slots,
            input_ids=ids,
            attention_mask=self._kv.mask(additive=self._base.takes_additive_mask),
            position_ids=self._kv.positions,
            past_key_values=self._kv.cache,
            use_cache=True,
        ).logits
        self._kv.advance()
        tokens, logprobs = sample(logits[:, -1], self._plan)
        return list(zip(tokens, logprobs, strict=True))

    @torch.inference_mode()
    def leave(self, index: int) -> None:
        """Drops row `index`; the last row takes its index."""
        self._kv.leave(index)
        for rows in (self.rows, self._slots):
            rows[index] = rows[-1]
            rows.pop()
        self._plan = None

    def clear(self) -> list[Sequence]:
        """Drops every row after a failed forward and returns them."""
        rows, self.rows, self._slots, self._plan = self.rows, [], [], None
        self._kv.clear()
        return rows


def _prompt_logprobs(row: Sequence, logits: torch.Tensor, start: int) -> list[TokenLogprob | None]:
    """Log-probabilities of the prompt tokens after position `start`. `logits`: [positions from start,
    vocabulary].

    The first token of a prompt has none, so it comes as None with the first chunk.
    """
    out: list[TokenLogprob | None] = [None] if start == 0 else []
    targets = row.prompt_ids[start + 1 : start + 1 + logits.shape[0]]
    for first in range(0, len(targets), _ECHO_POSITIONS):
        part = targets[first : first + _ECHO_POSITIONS]
        out += token_logprobs(logits[first : first + len(part)], part, [row.params.logprobs or 0] * len(part))
    return out
