"""A fork has copies of the pages that an earlier one came to write to, before it writes to them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rank processes are forked on Linux only")

PAGES = 4_000
# In a process of its own: a fork of this one would have its threads' locks and nobody to let go of them.
FORKS = f"""
import json, mmap, os, resource
from tunefleet_core.worker.written_pages import WrittenPages

memory = mmap.mmap(-1, {PAGES} * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE)
memory.write(b"p" * len(memory))
written = WrittenPages()

def fork(notes):
    pid = os.fork()
    if not pid:
        copied = written.copy()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for page in range(0, {PAGES}, 2):
            memory[page * mmap.PAGESIZE] = ord("c")
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        if notes:
            written.note()
        untouched = memory[mmap.PAGESIZE : 2 * mmap.PAGESIZE] == b"p" * mmap.PAGESIZE
        print(json.dumps(dict(copied=copied, faults=faults, untouched=untouched)), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)

fork(notes=False)
fork(notes=True)
fork(notes=False)
assert memory[0] == ord("p"), "a fork wrote to its parent's memory"
"""


def test_what_one_fork_wrote_the_next_has_copied_before_it_writes() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True
    )
    first, second, third = (json.loads(line) for line in ended.stdout.splitlines())
    assert first["copied"] == second["copied"] == 0, "nobody had noted anything"
    half = PAGES // 2
    assert min(first["faults"], second["faults"]) >= half
    if not third["copied"]:
        pytest.skip("this kernel hides the page map, or cannot copy ahead (Linux 5.14)")
    assert half <= third["copied"] < PAGES, "the other half nobody wrote to"
    assert third["faults"] < half / 10
    assert first["untouched"]
    assert third["untouched"]
