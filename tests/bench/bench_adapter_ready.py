"""From a trained adapter to its first token, with an engine of its base running.

    python tests/bench/bench_adapter_ready.py [--trials 5] [--output FILE]

Each trial deploys another adapter, trained before. The clock starts before CreateDeployment on an
open connection and stops at the first piece of text that the gateway streams. In between the adapter
is fetched and checked by digest, loaded, and held to the record of its training in tokens and numbers.
`ready`: until the deployment is READY. `routed`: from there until the gateway accepts the model's
name. `first_token`: from the accepted request to the first piece.
"""

from __future__ import annotations

import asyncio
import time

import openai
from measured_fleet import LocalFleet, measured_fleet, report, short_job, spread, trials_and_output

from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet_client import Client

_POLL_SECONDS = 0.005
_LIMIT_SECONDS = 60.0


async def train(fleet: LocalFleet, client: Client, count: int) -> list[str]:
    """Return the names of as many different adapters."""
    names: list[str] = []
    for seed in range(count):
        name = f"adapter-{seed}"
        job = await client.jobs.create(short_job(f"train.seed={seed}", max_steps=4), job_id=name)
        await fleet.finish(client, job.name)
        names.append(name)
    await fleet.warmed("trl")  # or the next host's imports would fall into the measurement
    return names


async def until_ready(client: Client, name: str) -> None:
    async with asyncio.timeout(_LIMIT_SECONDS):
        while (found := await client.deployments.get(name)).state != DeploymentState.DEPLOYMENT_STATE_READY:
            assert found.state != DeploymentState.DEPLOYMENT_STATE_FAILED, found.error
            await asyncio.sleep(_POLL_SECONDS)


async def first_piece(app: openai.AsyncOpenAI, name: str) -> tuple[float, float]:
    """Ask until the gateway knows the name; return when the last question was put and answered."""
    messages = [{"role": "user", "content": "Hello"}]
    async with asyncio.timeout(_LIMIT_SECONDS):
        while True:
            asked = time.monotonic()
            try:
                stream = await app.chat.completions.create(
                    model=name, messages=messages, max_tokens=4, temperature=0, stream=True
                )
            except openai.NotFoundError:
                await asyncio.sleep(_POLL_SECONDS)
                continue
            async with stream:
                async for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        return asked, time.monotonic()
            raise RuntimeError(f"'{name}' answered nothing")


async def measure(client: Client, app: openai.AsyncOpenAI, name: str) -> dict[str, float]:
    begun = time.monotonic()
    await client.deployments.create(DeploymentSpec(model=f"models/{name}"))
    await until_ready(client, name)
    ready = time.monotonic()
    asked, answered = await first_piece(app, name)
    return {
        "total": answered - begun,
        "ready": ready - begun,
        "routed": asked - ready,
        "first_token": answered - asked,
    }


async def run(count: int) -> dict[str, object]:
    async with measured_fleet() as fleet, fleet.client() as client:
        names = await train(fleet, client, count + 1)
        key = fleet.token("admin")
        async with openai.AsyncOpenAI(
            base_url=f"{fleet.gateway}/v1", api_key=key, max_retries=0, timeout=_LIMIT_SECONDS
        ) as app:
            started = await measure(client, app, names[0])
            found = [await measure(client, app, name) for name in names[1:]]
    return {
        "adapter_seconds": {part: spread(item[part] for item in found) for part in found[0]},
        "with_engine_start_seconds": round(started["total"], 3),
    }


def main() -> None:
    count, output = trials_and_output(__doc__, trials=5)
    promises = {"adapter total": "< 0.5 s"}
    report("adapter_ready", promises=promises, results=asyncio.run(run(count)), output=output)


if __name__ == "__main__":
    main()
