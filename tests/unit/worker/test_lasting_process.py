"""A process of a service that outlives it, by whatever way the service ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from tunefleet_services.hosts.lasting_process import LastingProcess

# As a service ends: its loop closes, and what it held is collected.
_STARTER = """
import asyncio, gc, os, sys
from tunefleet_services.hosts.lasting_process import LastingProcess

async def main():
    with open(os.devnull, "wb") as nowhere:
        words = [sys.executable, "-c", "import time; time.sleep(60)"]
        return LastingProcess(words, environment=dict(os.environ), output=nowhere).pid

pid = asyncio.run(main())
gc.collect()
print(pid)
"""
_ENDS_WITH_ITS_INPUT = "import sys; print('hello', flush=True); sys.stdin.read(); sys.exit(3)"


def test_it_lives_on_when_the_loop_of_its_service_has_closed() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _STARTER], capture_output=True, text=True, check=True, timeout=60
    )
    pid = int(told.stdout)
    try:
        time.sleep(0.2)
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_it_ends_with_the_input_that_it_was_given_and_tells_how() -> None:
    with tempfile.TemporaryFile() as said:
        words = [sys.executable, "-c", _ENDS_WITH_ITS_INPUT]
        process = LastingProcess(words, environment=dict(os.environ), output=said, holds_input=True)
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.sleep(0.3)
        assert process.returncode is None
        process.end_input()
        async with asyncio.timeout(30):
            assert await waiting == 3
        said.seek(0)
        assert said.read() == b"hello\n"


async def test_it_can_be_killed_also_when_it_has_ended() -> None:
    with tempfile.TemporaryFile() as said:
        process = LastingProcess([sys.executable, "-c", "input()"], environment=dict(os.environ), output=said)
        async with asyncio.timeout(30):
            assert await process.wait() == 1  # it reads nothing
        process.kill()
        said.seek(0)
        assert b"EOFError" in said.read()


def test_a_command_that_is_not_there_says_so() -> None:
    with tempfile.TemporaryFile() as said, pytest.raises(FileNotFoundError):
        LastingProcess(["/nowhere/python"], environment={}, output=said)
