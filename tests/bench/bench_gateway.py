"""What the gateway costs: the same streams directly from an engine and through the gateway.

The engine is FakeEngine (a stand-in that streams pieces by the clock and generates
nothing), so every difference is the gateway's. Engine, gateway and clients are a process
each. Both ways are measured in turns within one run, and compared pair by pair: the machine's
mood falls on both. Prints one JSON document.

    python tests/bench/bench_gateway.py [--pairs 8] [--streams 1 8 32 128] [--interval-ms 5] [--relay]
        [--output FILE]

At 128 streams a piece each 5 ms is more than engine, gateway and clients can pass on two cores: what
is compared is then how they share them. `--interval-ms 20` asks for as many pieces as 32 streams do at 5.

With --relay the same gateway reaches the engine through a relay in a process of its own: what
is compared is then the relay with the engine itself.

`throughput_ratio`: pieces per second through the gateway / directly; promised >= 0.97.
`added_piece_ms`: median age of a piece on arrival, gateway minus direct; promised < 1.
`added_first_ms`: the same for the time from a request to its first piece, one request at a time.
`added_first_burst_ms`: the same when all streams are asked for in one instant: they queue for the
gateway's one core, so this grows with their number.
`added_whole_ms`: the same for an answer that is not streamed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from tunefleet_services.gateway import (
    AccessLog,
    GatewaySettings,
    Route,
    RouteTable,
    RouteTableHolder,
    serve_gateway,
)
from tunefleet_services.gateway.inference import serve_inference
from tunefleet_services.gateway.metrics import Metrics
from tunefleet_services.server.relay import Relay

FAKE_ENGINE = Path(__file__).parents[1] / "integration" / "gateway" / "fake_engine.py"
TOKEN = "tf-bench"
PATH = "/v1/chat/completions"
PIECES = 200


@dataclass
class Sample:
    """One round of concurrent streams one way; times in milliseconds."""

    pieces_per_second: float = 0.0
    piece_ages: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    first_burst: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


async def read_stream(
    session: aiohttp.ClientSession,
    address: str,
    pieces: int,
    ages: list[float],
    first: list[float],
    *,
    interval_ms: float,
) -> None:
    fake = {"tokens": pieces, "interval_ms": interval_ms, "stamp": True}
    started = time.monotonic_ns()
    count = 0
    async with session.post(address + PATH, data=body(stream=True, fake=fake)) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            arrived = time.monotonic_ns()
            _, found, stamp = line.rpartition(b'"sent_ns": ')
            if not found:
                continue
            if not count:
                first.append((arrived - started) / 1e6)
            count += 1
            ages.append((arrived - int(stamp.rstrip(b"}\n"))) / 1e6)
    if count != pieces:
        raise RuntimeError(f"{count} of {pieces} pieces arrived")


async def measure(
    session: aiohttp.ClientSession, address: str, streams: int, *, interval_ms: float
) -> Sample:
    sample = Sample()
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            reading = read_stream(
                session, address, PIECES, sample.piece_ages, sample.first_burst, interval_ms=interval_ms
            )
            group.create_task(reading)
    sample.pieces_per_second = streams * PIECES / (time.monotonic() - started)
    for _ in range(30):
        await read_stream(session, address, 2, [], sample.first, interval_ms=interval_ms)
    for _ in range(30):
        begun = time.monotonic_ns()
        async with session.post(address + PATH, data=body()) as answer:
            await answer.read()
        sample.whole.append((time.monotonic_ns() - begun) / 1e6)
    return sample


async def compare(
    direct: str, gateway: str, streams: int, pairs: int, *, interval_ms: float
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    ways: dict[str, list[Sample]] = {direct: [], gateway: []}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        for address in ways:  # connections and code are warm before anything counts
            await measure(session, address, streams, interval_ms=interval_ms)
        for pair in range(pairs):
            order = [direct, gateway] if pair % 2 == 0 else [gateway, direct]
            for address in order:
                ways[address].append(await measure(session, address, streams, interval_ms=interval_ms))
    matched = list(zip(ways[direct], ways[gateway], strict=True))
    ratios = [through.pieces_per_second / bare.pieces_per_second for bare, through in matched]

    def added(name: str) -> float:
        differences = [
            statistics.median(getattr(through, name)) - statistics.median(getattr(bare, name))
            for bare, through in matched
        ]
        return round(statistics.median(differences), 3)

    return {
        "streams": streams,
        "pairs": pairs,
        "throughput_ratio": round(statistics.median(ratios), 4),
        "throughput_ratio_worst": round(min(ratios), 4),
        "added_piece_ms": added("piece_ages"),
        "added_first_ms": added("first"),
        "added_first_burst_ms": added("first_burst"),
        "added_whole_ms": added("whole"),
        "direct_pieces_per_second": round(
            statistics.median(sample.pieces_per_second for sample in ways[direct]), 1
        ),
        "direct_piece_age_ms": round(
            statistics.median(statistics.median(sample.piece_ages) for sample in ways[direct]), 3
        ),
    }


async def run_gateway(engine: str, *, is_relayed: bool) -> None:
    route = Route(
        model="m",
        engine_addresses=("relay://bench/engine" if is_relayed else engine,),
        engine_model="m@1",
        project="p",
        create_time=datetime.now(UTC),
    )
    holder = RouteTableHolder(RouteTable.of([route], [hashlib.sha256(TOKEN.encode()).hexdigest()]))
    holder.relays.admit(TOKEN)
    log = AccessLog()  # as in use: lines are written, here to the parent's null device
    with contextlib.ExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            tasks = [
                group.create_task(serve_gateway(holder, access_log=log, on_listening=listening.set_result))
            ]
            address = await listening
            if is_relayed:
                door: asyncio.Future[str] = asyncio.get_running_loop().create_future()
                grpc_door = serve_inference(
                    holder,
                    "127.0.0.1:0",
                    settings=GatewaySettings(),
                    metrics=Metrics(),
                    access_log=log,
                    on_listening=door.set_result,
                )
                tasks.append(group.create_task(grpc_door))
                stack.enter_context(started(__file__, "--carry", await door, engine))
            print(address, flush=True)
            # Ends with the benchmark, however that ended: then standard input is closed.
            await asyncio.to_thread(sys.stdin.read)
            for task in tasks:
                task.cancel()


async def run_relay(gateway: str, engine: str) -> None:
    relay = Relay(gateway, server="bench", token=TOKEN, engine_address=lambda _: engine)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(relay.run())
        await asyncio.sleep(1)  # the first signs of life have come
        print("carries", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        running.cancel()


@contextlib.contextmanager
def started(*command: str) -> Iterator[str]:
    """Run a process that prints its address; end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def machine() -> dict[str, Any]:
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return {
        "system": platform.platform(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--interval-ms", type=float, default=5, help="between two pieces of a stream")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--relay", action="store_true", help="reach the engine through a relay")
    parser.add_argument("--serve", metavar="ENGINE", help=argparse.SUPPRESS)  # the gateway's own process
    parser.add_argument("--carry", nargs=2, help=argparse.SUPPRESS)  # the relay's own process
    options = parser.parse_args()
    if options.serve:
        asyncio.run(run_gateway(options.serve, is_relayed=options.relay))
        return
    if options.carry:
        asyncio.run(run_relay(*options.carry))
        return
    about = machine()
    more = ["--relay"] if options.relay else []
    with started(str(FAKE_ENGINE)) as engine, started(__file__, "--serve", engine, *more) as gateway:
        results = [
            asyncio.run(compare(engine, gateway, streams, options.pairs, interval_ms=options.interval_ms))
            for streams in options.streams
        ]
    document = {
        "benchmark": "gateway_relay" if options.relay else "gateway",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about,
        "engine": f"FakeEngine, {PIECES} pieces, one each {options.interval_ms:g} ms",
        "promises": {}
        if options.relay
        else {"throughput_ratio": ">= 0.97", "added_piece_ms": "< 1", "added_first_ms": "< 1"},
        "results": results,
    }
    text = json.dumps(document, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
