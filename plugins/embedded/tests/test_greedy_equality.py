"""The engine's greedy tokens are those of transformers' generate() on that row alone."""

from __future__ import annotations

import asyncio
import random

import pytest
import reference
from asking import greedy_ids, stream_ids
from conftest import Lab
from engine_process import EngineProcess

MODELS = ("base", "a", "b", "c")


@pytest.fixture(params=["qwen3", "llama"])
def family(request: pytest.FixtureRequest) -> tuple[Lab, EngineProcess]:
    short = {"qwen3": "qwen", "llama": "llama"}[request.param]
    return request.getfixturevalue(f"{short}_lab"), request.getfixturevalue(short)


def _prompts(count: int, *, seed: int, longest: int = 60) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randrange(3, 300) for _ in range(dice.randrange(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("model", MODELS)
def test_one_request_alone_equals_generate(family: tuple[Lab, EngineProcess], model: str) -> None:
    lab, engine = family
    for prompt in _prompts(4, seed=1):
        expected = reference.greedy(lab.base, lab.path(model), prompt, 24)
        assert greedy_ids(engine.client(), model, prompt, 24) == expected


def test_adapters_change_the_answer(family: tuple[Lab, EngineProcess]) -> None:
    """Without this the equality tests would also pass with adapters that do nothing."""
    lab, _ = family
    answers = {tuple(reference.greedy(lab.base, lab.path(model), [10, 20, 30], 12)) for model in MODELS}
    assert len(answers) == len(MODELS)


def test_mixed_batch_equals_each_row_alone(family: tuple[Lab, EngineProcess]) -> None:
    """Rows of all adapters and the base, of different lengths, that come and go at different steps."""
    lab, engine = family
    jobs = [
        (MODELS[i % 4], prompt, 10 + 7 * (i % 6), 0.01 * (i % 5))
        for i, prompt in enumerate(_prompts(24, seed=2))
    ]

    async def everyone() -> list[list[int]]:
        async with engine.async_client() as client:
            return await asyncio.gather(
                *(
                    stream_ids(client, model, prompt, tokens, delay=delay)
                    for model, prompt, tokens, delay in jobs
                )
            )

    for (model, prompt, tokens, _), got in zip(jobs, asyncio.run(everyone()), strict=True):
        assert got == reference.greedy(lab.base, lab.path(model), prompt, tokens), (model, len(prompt))


def test_prompts_of_one_request_equal_generate(qwen_lab: Lab, qwen: EngineProcess) -> None:
    prompts = _prompts(6, seed=3)
    answer = qwen.client().completions.create(
        model="a",
        prompt=prompts,
        max_tokens=8,
        temperature=0,
        logprobs=0,
        extra_body={"ignore_eos": True, "return_tokens_as_token_ids": True},
    )
    for choice, prompt in zip(answer.choices, prompts, strict=True):
        expected = reference.greedy(qwen_lab.base, qwen_lab.path("a"), prompt, 8)
        assert [f"token_id:{one}" for one in expected] == choice.logprobs.tokens
    assert answer.usage.prompt_tokens == sum(len(prompt) for prompt in prompts)
