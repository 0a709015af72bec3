"""Log-probabilities are transformers' own, whoever shares the batch."""

from __future__ import annotations

import asyncio

import pytest
import reference
from asking import AS_IDS, chat, ids_of
from conftest import Lab
from engine_process import EngineProcess

TOLERANCE = 1e-4


@pytest.mark.parametrize("model", ["base", "a", "b", "c"])
def test_completion_logprobs_and_alternatives_equal_log_softmax(
    qwen_lab: Lab, qwen: EngineProcess, model: str
) -> None:
    prompt = [11, 22, 33, 44, 55]
    answer = qwen.client().completions.create(
        model=model,
        prompt=prompt,
        max_tokens=8,
        temperature=0.9,
        seed=7,
        logprobs=20,
        echo=True,
        extra_body=AS_IDS,
    )
    logprobs = answer.choices[0].logprobs
    ids = ids_of(logprobs.tokens)
    assert ids[: len(prompt)] == prompt
    assert len(ids) == len(prompt) + 8
    truth = reference.logprobs(qwen_lab.base, qwen_lab.path(model), ids)
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    for position in range(1, len(ids)):
        row = truth[position - 1]
        assert logprobs.token_logprobs[position] == pytest.approx(row[ids[position]].item(), abs=TOLERANCE)
        shown = {int(token.split(":")[1]): value for token, value in logprobs.top_logprobs[position].items()}
        assert set(row.topk(20).indices.tolist()) | {ids[position]} == set(shown)
        for token_id, value in shown.items():
            assert value == pytest.approx(row[token_id].item(), abs=TOLERANCE)


def test_a_prompt_can_be_scored_without_generating(qwen_lab: Lab, qwen: EngineProcess) -> None:
    prompt = list(range(5, 25))
    answer = qwen.client().completions.create(
        model="a", prompt=prompt, max_tokens=0, echo=True, logprobs=0, extra_body=AS_IDS
    )
    assert ids_of(answer.choices[0].logprobs.tokens) == prompt
    assert answer.usage.completion_tokens == 0
    truth = reference.logprobs(qwen_lab.base, qwen_lab.path("a"), prompt)
    expected = [truth[i - 1][prompt[i]].item() for i in range(1, len(prompt))]
    assert answer.choices[0].logprobs.token_logprobs[1:] == pytest.approx(expected, abs=TOLERANCE)


def test_mixed_batch_gives_each_row_its_own_logprobs(qwen_lab: Lab, qwen: EngineProcess) -> None:
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]

    async def everyone() -> list[list[float]]:
        async with qwen.async_client() as client:
            answers = await asyncio.gather(
                *(
                    client.completions.create(
                        model=model,
                        prompt=prompt,
                        max_tokens=20,
                        temperature=0,
                        logprobs=5,
                        extra_body=AS_IDS,
                    )
                    for model in ("base", "a", "b", "c") * 2
                )
            )
        return [
            (ids_of(one.choices[0].logprobs.tokens), one.choices[0].logprobs.token_logprobs)
            for one in answers
        ]

    for model, (ids, got) in zip(("base", "a", "b", "c") * 2, asyncio.run(everyone()), strict=True):
        truth = reference.logprobs(qwen_lab.base, qwen_lab.path(model), prompt + ids)
        expected = [truth[len(prompt) + i - 1][ids[i]].item() for i in range(len(ids))]
        assert got == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs_carry_bytes_that_make_up_the_text(qwen: EngineProcess, stream: bool) -> None:
    client = qwen.client()
    wanted = chat("hello", logprobs=True, top_logprobs=3, extra_body={"ignore_eos": True})
    if stream:
        chunks = list(client.chat.completions.create(model="a", stream=True, **wanted))
        content = [
            one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content
        ]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        choice = client.chat.completions.create(model="a", **wanted).choices[0]
        content, text = choice.logprobs.content, choice.message.content
    assert len(content) == 16
    assert all(len(one.top_logprobs) == 3 for one in content)
    assert all(one.logprob == pytest.approx(one.top_logprobs[0].logprob) for one in content)
    assert bytes(byte for one in content for byte in one.bytes).decode(errors="replace") == text
