"""How the process behaves: joining, cancelling, ending, keys."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import openai
import pytest
import reference
from asking import AS_IDS, stream_ids
from bench_throughput import ratio
from conftest import Lab
from engine_process import EngineProcess
from forked_engine import ForkedEngine
from tiny_models import make_base

LONG = {"prompt": [5, 6, 7], "max_tokens": 500, "temperature": 0, "stream": True, "extra_body": AS_IDS}


def test_a_request_joins_within_one_decode_step(qwen: EngineProcess) -> None:
    """The engine counts the decode steps that others took between a request's arrival and its own prefill."""
    before = qwen.metrics()

    async def scenario() -> None:
        async with qwen.async_client() as client, asyncio.TaskGroup() as group:
            group.create_task(stream_ids(client, "base", [5], 400))
            for i in range(20):
                group.create_task(stream_ids(client, ("a", "b", "c")[i % 3], [6, 7], 5, delay=0.01 * i))

    asyncio.run(scenario())
    after = qwen.metrics()
    joined = {
        bound: after[f'join_steps_bucket{{le="{bound}"}}'] - before[f'join_steps_bucket{{le="{bound}"}}']
        for bound in (1, "+Inf")
    }
    assert joined["+Inf"] == 21
    assert joined[1] == 21
    # They shared steps: 400 + 20 * 5 tokens took far fewer steps than one after the other would.
    assert after["decode_steps_total"] - before["decode_steps_total"] < 450


def test_a_short_answer_overtakes_a_long_one(qwen: EngineProcess) -> None:
    async def scenario() -> list[str]:
        finished: list[str] = []

        async def one(name: str, tokens: int, delay: float) -> None:
            await stream_ids(client, name, [5, 6], tokens, delay=delay)
            finished.append(name)

        async with qwen.async_client() as client:
            await asyncio.gather(one("base", 480, 0.0), one("a", 5, 0.05))
        return finished

    assert asyncio.run(scenario()) == ["a", "base"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_rows(qwen: EngineProcess, stream: bool) -> None:
    before = qwen.metrics()

    async def scenario() -> None:
        async with qwen.async_client() as client:
            if stream:
                chunks = await client.completions.create(model="a", **LONG)
                async for _ in chunks:
                    break
                await chunks.close()
                return
            request = client.completions.create(model="a", n=3, **{**LONG, "stream": False})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await request

    asyncio.run(scenario())
    qwen.wait_until("requests_running", 0)
    after = qwen.metrics()
    assert after["requests_cancelled_total"] - before["requests_cancelled_total"] == (1 if stream else 3)
    tokens = after["generation_tokens_total"] - before["generation_tokens_total"]
    assert tokens < (500 if stream else 1500)


def test_more_requests_than_rows_wait_their_turn(qwen_lab: Lab) -> None:
    with ForkedEngine(
        qwen_lab.base, "--max-batch", "2", "--max-waiting", "8", "--served-name", "base"
    ) as engine:

        async def scenario() -> list[int]:
            async with engine.async_client() as client:
                async with asyncio.TaskGroup() as group:
                    jobs = [group.create_task(stream_ids(client, "base", [5, i], 60)) for i in range(5)]
                return [len(job.result()) for job in jobs]

        assert asyncio.run(scenario()) == [60] * 5
        with pytest.raises(openai.RateLimitError) as caught:
            engine.client().completions.create(model="base", prompt="x", n=9)
        assert caught.value.code == "queue_full"


def test_a_long_prompt_does_not_hold_up_a_stream(tmp_path: Path) -> None:
    """No forward between two decode steps reads more than a chunk of it."""
    base = make_base(tmp_path, "llama", context=4096)
    prompt = [5 + i % 290 for i in range(3000)]
    with ForkedEngine(base, "--served-name", "base") as engine:

        async def scenario() -> tuple[list[int], list[int]]:
            async with engine.async_client() as client:
                stream = asyncio.create_task(stream_ids(client, "base", [5, 6, 7], 600))
                await asyncio.to_thread(engine.wait_until, "requests_running", 1)
                long = await stream_ids(client, "base", prompt, 1)
                return await stream, long

        short, long = asyncio.run(scenario())
        metrics = engine.metrics()
    assert short == reference.greedy(base, None, [5, 6, 7], 600)
    assert long == reference.greedy(base, None, prompt, 1)
    assert metrics["prefill_tokens_count"] == 1 + 6
    assert metrics['prefill_tokens_bucket{le="512"}'] == 1 + 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_while_it_streams(qwen_lab: Lab, number: signal.Signals) -> None:
    with EngineProcess(qwen_lab.base, "--served-name", "base") as engine:
        chunks = engine.client().completions.create(model="base", **LONG)
        next(iter(chunks))
        sent = time.monotonic()
        engine.process.send_signal(number)
        assert engine.process.wait(10) == 0
        assert time.monotonic() - sent < 2.0, "\n".join(engine.log)
        assert engine.process.stdout is not None
        assert engine.process.stdout.read() == ""


def test_a_key_is_asked_for_everywhere_but_health(qwen_lab: Lab) -> None:
    key = "correct horse"
    with ForkedEngine(
        qwen_lab.base, "--api-key-env", "TUNEFLEET_TEST_KEY", environment={"TUNEFLEET_TEST_KEY": key}
    ) as engine:
        assert engine.get("/health").status == 200
        for path in ("/v1/models", "/metrics"):
            assert engine.get(path).status == 401
            assert engine.get(path, key="wrong").status == 401
            assert engine.get(path, key=key).status == 200
        assert engine.get("/v1/models", key="wrong").json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            engine.client("wrong").models.list()
        assert [model.id for model in engine.client(key).models.list()] == ["base"]


@pytest.mark.parametrize(
    ("options", "word"),
    [(["--max-context", "4096"], "positions"), (["--api-key-env", "TUNEFLEET_NOT_SET"], "not set")],
)
def test_a_wrong_start_says_why(qwen_lab: Lab, options: list[str], word: str) -> None:
    with pytest.raises(RuntimeError, match=word), ForkedEngine(qwen_lab.base, *options):
        pass


def test_an_adapter_folder_is_no_base(qwen_lab: Lab) -> None:
    with pytest.raises(RuntimeError, match="adapter is not a base"), ForkedEngine(qwen_lab.adapters["a"]):
        pass


def test_eight_at_once_are_at_least_twice_one(qwen: EngineProcess) -> None:
    """The promise is three times; two leaves room for a busy machine.

    `bench_throughput.py` prints the figure.
    """

    async def scenario() -> float:
        async with qwen.async_client() as client:
            mix = ["base", "a", "b", "c"]
            return (await ratio(client, mix, concurrent=8, stream=False, tokens=100, rounds=4))[2]

    assert asyncio.run(scenario()) >= 2.0
