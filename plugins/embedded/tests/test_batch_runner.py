"""The running batch without HTTP: rows join and leave in every order, on attention of every kind."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from conftest import Lab
from tiny_models import make_tokenizer
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tunefleet_embedded.engine.adapter_files import read_adapter
from tunefleet_embedded.engine.detokenize import TextStream
from tunefleet_embedded.engine.model import load_base_model
from tunefleet_embedded.engine.options import parse_options
from tunefleet_embedded.engine.runner import BatchRunner, LongPrompt
from tunefleet_embedded.engine.sequence import SamplingParams, Sequence

_SIZES: dict[str, Any] = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    initializer_range=0.2,
    sliding_window=16,
)
_SLIDING = {
    "mistral": lambda size: MistralForCausalLM(MistralConfig(vocab_size=size, **_SIZES)),
    "gemma2": lambda size: Gemma2ForCausalLM(
        Gemma2Config(vocab_size=size, query_pre_attn_scalar=16, **_SIZES)
    ),
    "gpt_oss": lambda size: GptOssForCausalLM(
        GptOssConfig(vocab_size=size, num_local_experts=4, num_experts_per_tok=2, **_SIZES)
    ),
}


def _runner(base: Path) -> BatchRunner:
    return BatchRunner(load_base_model(parse_options(["--model", str(base)])))


def _row(runner: BatchRunner, prompt: list[int], tokens: int, slot: str | None = None) -> Sequence:
    return Sequence(
        index=0,
        model="",
        slot=slot,
        prompt_ids=prompt,
        params=SamplingParams(max_tokens=tokens, temperature=0),
        text_stream=TextStream(runner._base.backend),
        deliver=lambda update: None,
        wants_stream=False,
        rng=random.Random(0),
    )


def _play(runner: BatchRunner, rows: list[Sequence], dice: random.Random) -> None:
    """Lets rows in, a few at a time and at random steps, until all are finished."""
    waiting = list(rows)
    while waiting or runner.rows:
        if waiting and (not runner.rows or dice.random() < 0.3):
            count = min(len(waiting), dice.randrange(1, 4))
            first = len(runner.rows)
            _accept(runner, runner.prefill([waiting.pop() for _ in range(count)]), first)
        if runner.rows:
            _accept(runner, runner.decode(), 0)


def _accept(runner: BatchRunner, tokens: list[Any], first: int) -> None:
    finished = []
    for index, (token_id, logprob) in enumerate(tokens, start=first):
        runner.rows[index].accept(token_id, logprob)
        if runner.rows[index].finish_reason is not None:
            finished.append(index)
    for index in reversed(finished):
        runner.leave(index)


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_joins_and_leaves_equals_generate(qwen_lab: Lab, seed: int) -> None:
    dice = random.Random(seed)
    runner = _runner(qwen_lab.base)
    for name, folder in qwen_lab.adapters.items():
        files = read_adapter(folder, runner._base.model)
        runner.router.attach(name, files.config, files.tensors)
    rows = [
        _row(
            runner,
            [dice.randrange(3, 300) for _ in range(dice.choice([1, 2, 5, 30, 90, 150]))],
            dice.choice([1, 2, 10, 40, 120]),
            dice.choice([None, "a", "b", "c"]),
        )
        for _ in range(14)
    ]
    _play(runner, rows, dice)
    for row in rows:
        adapter = qwen_lab.adapters[row.slot] if row.slot else None
        assert row.token_ids == reference.greedy(
            qwen_lab.base, adapter, row.prompt_ids, row.params.max_tokens
        )


@pytest.mark.parametrize("family", sorted(_SLIDING))
def test_sliding_windows_hold_in_a_padded_batch(tmp_path: Path, family: str) -> None:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    _SLIDING[family](len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    dice = random.Random(5)
    runner = _runner(tmp_path)
    rows = [
        _row(runner, [dice.randrange(3, 300) for _ in range(dice.choice([2, 9, 40]))], 40) for _ in range(6)
    ]
    _play(runner, rows, dice)
    for row in rows:
        assert row.token_ids == reference.greedy(tmp_path, None, row.prompt_ids, 40)


def test_the_stacked_path_equals_pefts_mixed_batch(qwen_lab: Lab) -> None:
    """The short cut computes what `model(..., adapter_names=[...])` computes."""
    runner = _runner(qwen_lab.base)
    for name, folder in qwen_lab.adapters.items():
        files = read_adapter(folder, runner._base.model)
        runner.router.attach(name, files.config, files.tensors)
    ids = torch.randint(3, 300, (5, 7))
    slots = ["a", None, "c", "b", "a"]
    with torch.inference_mode():
        stacked = runner.router.forward(slots, input_ids=ids).logits
        runner.router._through_peft = {"a"}
        mixed = runner.router.forward(slots, input_ids=ids).logits
        runner.router._through_peft = set()
        again = runner.router.forward(slots, input_ids=ids).logits
    assert torch.allclose(stacked, mixed, atol=1e-4)
    assert torch.equal(stacked, again)


@pytest.mark.parametrize("tokens", [1, 7, 64, 200])
def test_a_prompt_read_in_chunks_equals_generate(qwen_lab: Lab, tokens: int) -> None:
    """Between its chunks others decode, and it takes its place among them."""
    dice = random.Random(tokens)
    runner = _runner(qwen_lab.base)
    other = _row(runner, [5, 6, 7], 60)
    _accept(runner, runner.prefill([other]), 0)
    row = _row(runner, [dice.randrange(3, 300) for _ in range(130)], 12)
    row.params = replace(row.params, logprobs=0, prompt_logprobs=True)
    prompt, first = LongPrompt(row), None
    while first is None:
        first = runner.read_chunk(prompt, tokens)
        _accept(runner, [first] if first else [], len(runner.rows) - 1)
        if runner.rows and not other.finish_reason:
            _accept(runner, runner.decode(), 0)
    _play(runner, [], dice)
    assert row.token_ids == reference.greedy(qwen_lab.base, None, row.prompt_ids, 12)
    assert other.token_ids == reference.greedy(qwen_lab.base, None, [5, 6, 7], 60)
    truth = reference.logprobs(qwen_lab.base, None, row.prompt_ids)
    got = [entry.logprob for entry in row.prompt_logprobs if entry is not None]
    expected = [truth[i - 1][row.prompt_ids[i]].item() for i in range(1, len(row.prompt_ids))]
    assert got == pytest.approx(expected, abs=1e-4)
