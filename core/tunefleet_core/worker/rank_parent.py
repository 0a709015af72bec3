"""The parent of rank processes: imports what they need once, then each is a fork of it.

    python -m tunefleet_core.worker.rank_parent --entry module:Class --listen-fd N

It has one thread, no tensor and no device, and its heap is frozen, so a fork shares nearly all of
its memory and is warm at once. Whoever asks on the socket hands the pipes over and owns the
rank process; this one only reaps it and tells how it ended. It serves until its standard input ends,
and stays until the last of its children has gone.

What was imported may not be fit for that: a driver or a thread does not survive a fork. Then it
says so and exits with `UNFORKABLE`, and rank processes are started one by one.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from tunefleet_core.worker.marker import MARKER
from tunefleet_core.worker.rank import load_rank, open_pipe, serve, warm_rank
from tunefleet_core.worker.rank_request import HANDED, UNFORKABLE, RankRequest, own_environment
from tunefleet_core.worker.written_pages import WrittenPages

if TYPE_CHECKING:
    from tunefleet_core.backend.contract import Rank

__all__ = ["main"]

_REQUEST_BYTES = 1 << 20
_FORKS_WELL = frozenset({"jemalloc_bg_thd"})
"""Threads that see to a fork themselves (jemalloc stops its own before one and starts it after)."""
_ONLY_HERE = {
    # A pool of threads of numpy, made when it is imported. Sums of a run are torch's.
    "OPENBLAS_NUM_THREADS": "1",
    # Asks whether there is a GPU without opening the driver, see the notes of torch on CUDA.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


def main() -> None:
    """Run the parent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entry", required=True, help="module:Class of the rank")
    parser.add_argument("--listen-fd", type=int, required=True, help="the socket that it is asked on")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the supervisor's to handle
    environment = own_environment()
    added = {name: value for name, value in _ONLY_HERE.items() if name not in os.environ}
    os.environ.update(added)
    rank = load_rank(arguments.entry)
    warm_rank(rank)
    for name in added:
        del os.environ[name]
    if reason := _unforkable():
        print(f"Rank processes are started one by one: {reason}", file=sys.stderr, flush=True)
        sys.exit(UNFORKABLE)
    listener = socket.socket(fileno=arguments.listen_fd)
    _Parent(rank, arguments.entry, environment, listener).serve()


class _Parent:
    """Forks, reaps, tells."""

    def __init__(
        self, rank: Rank, entry: str, environment: Mapping[str, str], listener: socket.socket
    ) -> None:
        self._rank = rank
        self._entry = entry
        self._environment = environment
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._asking: set[socket.socket] = set()
        self._children: dict[int, socket.socket] = {}
        self._wake = os.pipe()
        self._serves = True
        self._written = WrittenPages()

    def serve(self) -> None:
        """Serve until the owner has gone and every child too."""
        for end in self._wake:
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, _noticed)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        self._watch(self._wake[0], self._reap)
        self._watch(self._listener, self._accept)
        self._watch(sys.stdin.fileno(), self._leave)
        while self._serves or self._children:
            for key, _ in self._selector.select():
                if key.fd in self._selector.get_map():  # not let go by what came before it
                    key.data()

    def _watch(self, source: int | socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, act)

    def _leave(self) -> None:
        if os.read(sys.stdin.fileno(), 1024):
            return
        self._serves = False
        self._selector.unregister(sys.stdin.fileno())
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._asking.add(connection)
        self._watch(connection, lambda: self._answer(connection))

    def _answer(self, connection: socket.socket) -> None:
        """Fork for one request; a connection without one was only a look whether somebody listens."""
        self._selector.unregister(connection)
        self._asking.discard(connection)
        handed: list[int] = []
        try:
            connection.settimeout(1.0)
            text, handed, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, HANDED)
            while text and not text.endswith(b"\n"):
                text += connection.recv(_REQUEST_BYTES)
            if text:
                self._fork(connection, RankRequest(**json.loads(text)), handed)
        except (OSError, ValueError, TypeError) as error:
            print(f"a request came to nothing: {error}", file=sys.stderr, flush=True)
        finally:
            for descriptor in handed:
                os.close(descriptor)
            if connection not in self._children.values():
                connection.close()

    def _fork(self, connection: socket.socket, request: RankRequest, handed: list[int]) -> None:
        if refusal := self._refusal(request, handed):
            connection.sendall(json.dumps({"refused": refusal}).encode() + b"\n")
            return
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become_rank(request, handed)
        self._children[pid] = connection
        descriptor = os.pidfd_open(pid)
        try:  # it is not reaped before this has gone: its pid means nobody else
            socket.send_fds(connection, [json.dumps({"pid": pid}).encode() + b"\n"], [descriptor])
        finally:
            os.close(descriptor)

    def _refusal(self, request: RankRequest, handed: list[int]) -> str:
        if len(handed) != HANDED:
            return f"{HANDED} descriptors were expected, {len(handed)} came"
        names = self._environment.keys() | request.environment.keys()
        other = sorted(name for name in names if self._environment.get(name) != request.environment.get(name))
        if other:
            return f"it was started with other variables: {', '.join(other)}"
        if request.mark and len(request.mark) != len(os.environ.get(MARKER, "")):
            return "the marker has another length than its own"
        return ""

    def _become_rank(self, request: RankRequest, handed: list[int]) -> NoReturn:
        """Be the rank process, in a session of its own. Never returns."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            self._let_go()
            read_fd, write_fd, stdout, stderr, leash = handed
            null = os.open(os.devnull, os.O_RDONLY)
            for descriptor, number in ((null, 0), (stdout, 1), (stderr, 2)):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.environ[MARKER] = request.mark or os.environ[MARKER]
            _show_as(self._entry, os.environ[MARKER])
            _die_with_writer(leash)
            self._written.copy()
            serve(
                self._rank,
                open_pipe(read_fd, write_fd),
                is_warm=True,
                import_seconds=0.0,
                after_run=self._written.note,
            )
        finally:
            os._exit(1)

    def _let_go(self) -> None:
        """Close what is the parent's: a connection that lived on here would never end for its owner."""
        self._selector.close()
        self._listener.close()
        for connection in (*self._asking, *self._children.values()):
            connection.close()
        for end in self._wake:
            os.close(end)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake[0], 4096)
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            connection = self._children.pop(pid)
            with suppress(OSError):  # its owner has died
                connection.sendall(json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
            connection.close()


def _noticed(number: int, frame: FrameType | None) -> None:
    """A child has ended: the byte in the pipe says so, and wakes the selector."""


def _unforkable() -> str:
    """Return why this process must not be forked; empty: it may."""
    if not hasattr(os, "pidfd_open"):
        return "this system has no descriptors of processes"
    tasks = Path("/proc/self/task")
    threads = {
        (task / "comm").read_text().strip() for task in tasks.iterdir() if task.name != str(os.getpid())
    }
    if strange := threads - _FORKS_WELL:
        return f"the imports started threads ({', '.join(sorted(strange))})"
    mapped = Path("/proc/self/maps").read_text()
    if "/libcuda.so" in mapped:
        return "the imports opened the driver of CUDA"
    return ""


def _show_as(entry: str, mark: str) -> None:
    """Let `/proc` show this process as the rank process it is, under its own marker.

    A fork shows the arguments and the environment that its parent was started with: they are read from
    the very memory where the kernel put them, see proc_pid_cmdline(5). They are overwritten there.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    arguments, arguments_end, variables, variables_end = (int(field) for field in fields[45:49])
    shown = b"\0".join(
        part.encode() for part in (sys.executable, "-m", "tunefleet_core.worker.rank", "--entry", entry)
    )
    room = arguments_end - arguments
    ctypes.memmove(arguments, shown[: room - 1].ljust(room, b"\0"), room)
    block = ctypes.string_at(variables, variables_end - variables)
    name = f"{MARKER}=".encode()
    place = 0 if block.startswith(name) else block.find(b"\0" + name) + 1
    if not block.startswith(name, place):
        raise RuntimeError(f"{MARKER} is not in the environment that this process was started with")
    ctypes.memmove(variables + place + len(name), mark.encode(), len(mark))


def _die_with_writer(leash: int) -> None:
    """Have the kernel kill this process when the other end of a pipe is closed: when its host has died.

    A child would ask for that by PR_SET_PDEATHSIG, but this one's parent is not its host.
    """
    fcntl.fcntl(leash, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(leash, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(leash, fcntl.F_SETFL, fcntl.fcntl(leash, fcntl.F_GETFL) | os.O_ASYNC)


if __name__ == "__main__":
    main()
