"""Tokens per second of one stream against several at once, on a tiny model with one thread.

`python bench_throughput.py` prints one line per mix. The ratio is the figure; absolute numbers depend on the
machine.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from engine_process import EngineProcess
from openai import AsyncOpenAI
from tiny_models import make_adapter, make_base

TOKENS = 200
ROUNDS = 5


async def measure(client: AsyncOpenAI, models: list[str], *, tokens: int, stream: bool) -> float:
    """Tokens per second over all requests, one request per entry of `models`, sent together."""

    async def one(model: str) -> int:
        settings = dict(
            model=model,
            prompt="the quick brown fox",
            max_tokens=tokens,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        if not stream:
            answer = await client.completions.create(**settings)
            return answer.usage.completion_tokens
        chunks = await client.completions.create(
            stream=True, stream_options={"include_usage": True}, **settings
        )
        count = 0
        async for chunk in chunks:
            if chunk.usage is not None:
                count = chunk.usage.completion_tokens
        return count

    started = time.perf_counter()
    counts = await asyncio.gather(*(one(model) for model in models))
    return sum(counts) / (time.perf_counter() - started)


async def ratio(
    client: AsyncOpenAI,
    models: list[str],
    *,
    concurrent: int,
    stream: bool,
    tokens: int = TOKENS,
    rounds: int = ROUNDS,
) -> tuple[float, float, float]:
    """(one stream, `concurrent` at once, ratio): medians over rounds that alternate between the two."""
    singles, togethers = [], []
    mixed = (models * concurrent)[:concurrent]
    await measure(client, mixed, tokens=20, stream=stream)
    for number in range(rounds):
        single = [models[number % len(models)]]
        singles.append(await measure(client, single, tokens=tokens, stream=stream))
        togethers.append(await measure(client, mixed, tokens=tokens, stream=stream))
    one, many = statistics.median(singles), statistics.median(togethers)
    return one, many, many / one


async def _main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = make_base(folder / "base", "qwen3", hidden=128, layers=4)
        names = ["a", "b", "c"]
        with EngineProcess(base, "--served-name", "base") as engine:
            for seed, adapter in enumerate(names, start=1):
                reply = engine.load(adapter, make_adapter(base, folder / adapter, seed=seed))
                assert reply.status == 200, reply.text
            client = engine.async_client()
            for label, models in (
                ("base", ["base"]),
                ("one adapter", ["a"]),
                ("base + 3 adapters", ["base", *names]),
            ):
                for stream in (False, True):
                    for concurrent in (8, 32):
                        one, many, gain = await ratio(client, models, concurrent=concurrent, stream=stream)
                        kind = "streaming" if stream else "whole"
                        print(
                            f"{label:18} {kind:9} 1: {one:6.0f} tok/s   {concurrent:2}: {many:6.0f} tok/s   "
                            f"ratio {gain:.2f}",
                            flush=True,
                        )


if __name__ == "__main__":
    asyncio.run(_main())
