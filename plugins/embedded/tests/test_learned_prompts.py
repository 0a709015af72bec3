"""Prompt tuning: learned embeddings before a prompt, in one batch with the base and with LoRA."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import reference
import torch
from asking import greedy_ids, stream_ids
from conftest import Lab
from engine_process import EngineProcess
from safetensors.torch import load_file, save_file
from tiny_models import make_adapter, make_prompt

PROMPT = [7, 8, 9, 10]
LONG = [index % 300 + 10 for index in range(700)]
"""Read in two chunks."""


@pytest.fixture(scope="module")
def learned(qwen_lab: Lab, qwen: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = make_prompt(qwen_lab.base, tmp_path_factory.mktemp("learned") / "prompt", seed=4)
    reply = qwen.load("learned", folder)
    assert reply.status == 200, reply.text
    yield folder
    assert qwen.unload("learned").status == 200


def _expected(lab: Lab, learned: Path, model: str, prompt: list[int], tokens: int) -> list[int]:
    """Forwards of PEFT without a cache: its own generation leaves out where a prompt begins."""
    folder = learned if model == "learned" else lab.path(model)
    if model != "learned":
        return reference.greedy(lab.base, folder, prompt, tokens)
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(reference.logprobs(lab.base, folder, ids)[-1].argmax()))
    return ids[len(prompt) :]


def test_it_is_felt_and_nobody_else_feels_it(qwen_lab: Lab, qwen: EngineProcess, learned: Path) -> None:
    asked = [
        ("learned", PROMPT), ("base", PROMPT), ("a", PROMPT), ("learned", PROMPT * 3), ("b", [5, 6]),
        ("learned", [11]), ("learned", LONG), ("base", LONG),
    ]  # fmt: skip

    async def everyone() -> list[list[int]]:
        async with qwen.async_client() as client:
            return await asyncio.gather(*(stream_ids(client, model, prompt, 24) for model, prompt in asked))

    answers = asyncio.run(everyone())
    assert answers == [_expected(qwen_lab, learned, model, prompt, 24) for model, prompt in asked]
    assert answers[0] != answers[1]


def test_its_numbers_are_those_of_the_library(qwen_lab: Lab, qwen: EngineProcess, learned: Path) -> None:
    answer = qwen.client().completions.create(
        model="learned", prompt=PROMPT, max_tokens=1, temperature=0, logprobs=5, echo=True,
        extra_body={"return_tokens_as_token_ids": True},
    )  # fmt: skip
    found = answer.choices[0].logprobs
    wanted = reference.logprobs(qwen_lab.base, learned, PROMPT)[-len(PROMPT) :]
    given = [value for value in found.token_logprobs[1 : len(PROMPT)]]
    expected = [float(wanted[index, token]) for index, token in enumerate(PROMPT[1:])]
    assert given == pytest.approx(expected, abs=1e-4)
    first = found.top_logprobs[len(PROMPT)]
    top = torch.topk(wanted[-1], 5)
    assert sorted(first.values(), reverse=True) == pytest.approx(top.values.tolist(), abs=1e-4)
    assert answer.usage.prompt_tokens == len(PROMPT), "nobody wrote the learned ones"


def test_it_shares_an_engine_with_an_adapter_on_the_embeddings(
    qwen_lab: Lab, qwen: EngineProcess, learned: Path, tmp_path: Path
) -> None:
    other = make_adapter(
        qwen_lab.base, tmp_path / "embedding", seed=9, target_modules=["embed_tokens", "q_proj"]
    )
    assert qwen.load("embedding", other).status == 200
    try:

        async def both() -> list[list[int]]:
            async with qwen.async_client() as client:
                models = ("learned", "embedding", "learned", "base")
                return await asyncio.gather(*(stream_ids(client, model, PROMPT, 24) for model in models))

        first, second, third, base = asyncio.run(both())
        assert first == third == _expected(qwen_lab, learned, "learned", PROMPT, 24)
        assert second == reference.greedy(qwen_lab.base, other, PROMPT, 24)
        assert base == reference.greedy(qwen_lab.base, None, PROMPT, 24)
    finally:
        qwen.unload("embedding")


def test_the_context_holds_it_too(qwen: EngineProcess, learned: Path) -> None:
    client = qwen.client()
    room = 1024 - 6 - len(PROMPT)
    with pytest.raises(openai.BadRequestError, match="context is 1024 tokens; the prompt has 10"):
        client.completions.create(model="learned", prompt=PROMPT, max_tokens=room + 1)
    assert greedy_ids(client, "base", PROMPT, 4)


@pytest.mark.parametrize(("change", "why"), [("width", "does not fit"), ("name", "lacks the tensor")])
def test_one_that_does_not_fit_is_refused(
    qwen: EngineProcess, learned: Path, tmp_path: Path, change: str, why: str
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((learned / "adapter_config.json").read_bytes())
    embeddings = load_file(learned / "adapter_model.safetensors")["prompt_embeddings"]
    tensors = (
        {"prompt_embeddings": embeddings[:, :32].contiguous()} if change == "width" else {"x": embeddings}
    )
    save_file(tensors, folder / "adapter_model.safetensors")
    reply = qwen.load("broken", folder)
    assert (reply.status, why in reply.json()["error"]["message"]) == (400, True), reply.text
