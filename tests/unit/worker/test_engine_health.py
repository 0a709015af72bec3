"""An engine that runs and no longer answers is ended, and says so with its last lines."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import psutil
import pytest

from tunefleet.backend.v1.server_pb2 import AdapterOrder, EngineOrder, EngineState
from tunefleet_core.backend import EngineCommand, OpenAiDriver
from tunefleet_core.backend.contract import EngineDriver
from tunefleet_core.backend.probe_answers import ProbeAnswers
from tunefleet_core.errors import Reason, error_from_status
from tunefleet_core.worker import hosted_engine
from tunefleet_core.worker.engine_end import engine_ended
from tunefleet_core.worker.hosted_engine import HostedEngine

_SLEEPS = "import time; print('last words', flush=True); time.sleep(600)"


class FakeFallsSilent:
    """A driver of a process that answers a few times and then no more; a fake for a hung engine."""

    def __init__(self, answers: list[bool], *, start_seconds: float = 60.0) -> None:
        self._answers = answers
        self._start_seconds = start_seconds

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        argv = (sys.executable, "-c", _SLEEPS)
        return EngineCommand(argv=argv, address=f"http://127.0.0.1:{port}", start_seconds=self._start_seconds)

    async def is_ready(self, address: str) -> bool:
        return self._answers.pop(0) if self._answers else False

    async def load_adapter(self, address: str, order: AdapterOrder) -> None:
        raise AssertionError("no adapter is loaded here")

    async def unload_adapter(self, address: str, adapter: str) -> None:
        raise AssertionError("no adapter is dropped here")


async def driven(folder: Path, driver: EngineDriver) -> HostedEngine:
    engine = HostedEngine(EngineOrder(engine="one", base_path=str(folder), work_dir=str(folder)), driver)
    await engine.drive()
    assert engine.describe().state == EngineState.ENGINE_STATE_ENDED
    return engine


async def test_an_engine_that_falls_silent_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted_engine, "_HEALTH_SECONDS", 0.05)
    answers = [False, True, True, False, False, True]  # two misses are forgiven
    engine = await driven(tmp_path, FakeFallsSilent(answers))
    assert answers == []
    assert "left 3 questions in a row without an answer" in engine.describe().error.message
    assert "last words" in str(engine.describe().error)


async def test_an_engine_has_the_time_to_start_that_its_driver_gives_it(tmp_path: Path) -> None:
    engine = await driven(tmp_path, FakeFallsSilent([], start_seconds=0.3))
    assert "not ready after 0 s" in engine.describe().error.message


class FakeLoses(OpenAiDriver):
    """A driver of a stand-in that speaks OpenAI HTTP and, after some answers, writes something else."""

    def __init__(self, then: str) -> None:
        super().__init__()
        self._then = then

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        argv = (sys.executable, "-c", _LOSES_ITS_WORDS, str(port), self._then)
        return EngineCommand(argv=argv, address=f"http://127.0.0.1:{port}", start_seconds=60.0)


_LOSES_ITS_WORDS = """
import http.server, json, sys
answers = iter(["a red fox", "a red fox", sys.argv[2], "a red dog"])
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer({"data": [{"id": "m"}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        text = next(answers, sys.argv[2])
        print("wrote", repr(text), flush=True)
        self.answer({"choices": [{"text": text}]})
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize("then", ["", " \n", "!!!!!!!!", " the the the th"], ids=repr)
async def test_an_engine_that_writes_nothing_or_in_a_loop_any_more_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(hosted_engine, "_HEALTH_SECONDS", 0.05)
    engine = await driven(tmp_path, FakeLoses(then))
    error = engine.describe().error
    assert "3 questions in a row without an answer of any sense" in error.message
    # One lapse is forgiven, and another answer than the first is none.
    assert (tmp_path / "one.log").read_text().splitlines().count(f"wrote {then!r}") == 4


@pytest.mark.parametrize("by_nature", ["", "aaaaaaaa", "words"])
def test_what_a_model_writes_by_nature_is_no_fault(by_nature: str) -> None:
    answers = ProbeAnswers()
    for text in (by_nature, by_nature, "other words"):
        assert answers.makes_sense("http://127.0.0.1:1", "m", text)


class FakeEndsAtStart(FakeFallsSilent):
    """A driver of a program that ends while it starts; the causes are real, the engine is not."""

    def __init__(self, program: str) -> None:
        super().__init__([])
        self._program = program

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        return EngineCommand(argv=(sys.executable, "-c", self._program), address=f"http://127.0.0.1:{port}")


_TAKES_A_TAKEN_PORT = """
import asyncio, socket
taken = socket.create_server(("127.0.0.1", 0))
asyncio.run(asyncio.start_server(lambda *_: None, "127.0.0.1", taken.getsockname()[1]))
"""
_TAKES_TOO_MUCH = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
bytearray(1 << 40)
"""
_TAKES_NO_SUCH_OPTION = """
import argparse
argparse.ArgumentParser(prog="engine").parse_args(["--max-sequences", "4"])
"""
_IS_KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("program", "reason", "message", "hint"),
    [
        (_TAKES_A_TAKEN_PORT, "WORKER_LOST", "its port was taken", "on another port"),
        (_TAKES_TOO_MUCH, "OUT_OF_MEMORY", "not enough memory", "more memory"),
        (_TAKES_NO_SUCH_OPTION, "BACKEND_FAILED", "one of its options", "--set options.NAME"),
        (_IS_KILLED, "WORKER_LOST", "exit code -9", "runs out of memory"),
        ("raise SystemExit('a fault')", "BACKEND_FAILED", "exit code 1.", "last lines"),
    ],
)
async def test_why_an_engine_ended_is_read_off_what_it_said(
    tmp_path: Path, program: str, reason: str, message: str, hint: str
) -> None:
    engine = await driven(tmp_path, FakeEndsAtStart(program))
    error = error_from_status(engine.describe().error)
    assert (error.reason.value, message in error.message) == (reason, True), error.message
    assert hint in error.hint
    said = (tmp_path / "one.log").read_text().splitlines()
    assert error.metadata["log"].splitlines() == said[-30:]  # to its very last line


@pytest.mark.parametrize(
    "said",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPU)",
    ],
)
def test_engines_words_for_too_little_memory(said: str) -> None:
    assert engine_ended(1, ["Traceback", said]).reason is Reason.OUT_OF_MEMORY


class FakeWithChildren(FakeFallsSilent):
    """A driver of a process that starts another, which outlives it and keeps its output open."""

    def command(self, order: EngineOrder, port: int) -> EngineCommand:
        child = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {_SLEEPS!r}]).pid)"
        return EngineCommand(argv=(sys.executable, "-c", child), address=f"http://127.0.0.1:{port}")


async def test_what_an_engine_left_ends_with_it(tmp_path: Path) -> None:
    async with asyncio.timeout(20):
        engine = await driven(tmp_path, FakeWithChildren([]))
    assert "exit code 0" in engine.describe().error.message
    child = int(next(line for line in (tmp_path / "one.log").read_text().splitlines() if line.isdecimal()))
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(child).wait(timeout=5)
