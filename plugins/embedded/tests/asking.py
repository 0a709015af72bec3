"""Requests the tests share."""

from __future__ import annotations

import asyncio
from typing import Any

from openai import AsyncOpenAI, OpenAI

AS_IDS = {"ignore_eos": True, "return_tokens_as_token_ids": True}


def ids_of(tokens: list[str]) -> list[int]:
    """Token ids from `token_id:123` strings."""
    return [int(token.removeprefix("token_id:")) for token in tokens]


def greedy_ids(client: OpenAI, model: str, prompt: list[int], tokens: int) -> list[int]:
    answer = client.completions.create(
        model=model, prompt=prompt, max_tokens=tokens, temperature=0, logprobs=0, extra_body=AS_IDS
    )
    return ids_of(answer.choices[0].logprobs.tokens)


async def stream_ids(
    client: AsyncOpenAI, model: str, prompt: list[int], tokens: int, *, delay: float = 0.0
) -> list[int]:
    """The same by streaming, started `delay` seconds late."""
    await asyncio.sleep(delay)
    chunks = await client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=tokens,
        temperature=0,
        logprobs=0,
        stream=True,
        extra_body=AS_IDS,
    )
    ids: list[int] = []
    async for chunk in chunks:
        if chunk.choices[0].logprobs is not None:
            ids += ids_of(chunk.choices[0].logprobs.tokens)
    return ids


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0, **more}
