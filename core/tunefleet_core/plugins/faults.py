"""What can be wrong with a plugin, found without letting it do harm.

A plugin is foreign code: it may raise, hang, leave a process behind, print where others
read, or return rubbish. Each is one `PluginFault` with a hint for its user.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import psutil

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet_core import CONTRACT_VERSION

__all__ = ["PluginFault", "childless", "refuse_bad_manifest", "shown", "watched", "within"]

_T = TypeVar("_T")
_SLUG = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SHOWN_LETTERS = 60


class PluginFault(Exception):
    """A plugin does not work; the fact is a clause that follows its name."""

    def __init__(self, fact: str, hint: str) -> None:
        super().__init__(fact)
        self.fact = fact
        self.hint = hint


def shown(error: BaseException) -> str:
    """Return an exception as the end of a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """Return what a call returns, or raise what it raises, within a time limit.

    A call that hangs keeps its thread, which ends with the process: Python cannot end it.

    Raises:
        PluginFault: the call did not return in time.
    """
    answers: list[_T] = []
    faults: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # SystemExit too: it is raised again in the caller
            faults.append(error)

    thread = threading.Thread(target=work, name="plugin", daemon=True)
    thread.start()
    thread.join(seconds)
    if faults:
        raise faults[0]
    if not answers:
        raise PluginFault(
            f"did not return within {seconds:.0f} s",
            "A plugin must load and answer at once; report it to its makers, or uninstall it.",
        )
    return answers[0]


@contextmanager
def childless() -> Generator[None]:
    """End the processes that a plugin starts while it loads. Only where nobody else starts any.

    Raises:
        PluginFault: there were some.
    """
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    left: list[str] = []
    try:
        yield
    finally:
        left = _end_children(before)
    if left:
        raise PluginFault(
            f"leaves a process behind while it is loaded: {left[0]}",
            "A plugin must start nothing before it is given work; report it to its makers.",
        )


@contextmanager
def watched() -> Generator[None]:
    """Watch a plugin while it loads; what it does to standard output lands on standard error.

    Raises:
        PluginFault: it printed to standard output, or left a process behind (which is ended).
    """
    with childless(), tempfile.TemporaryFile() as caught:
        sys.stdout.flush()
        real = os.dup(1)
        os.dup2(caught.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(real, 1)
            os.close(real)
            caught.seek(0)
            printed = caught.read()
            os.write(2, printed)
        if printed:
            text = printed.decode("utf-8", "replace").strip().partition("\n")[0][:_SHOWN_LETTERS]
            raise PluginFault(
                f"prints to standard output while it is loaded: '{text}'",
                "Standard output belongs to protocols; let it log, or print to standard error.",
            )


def refuse_bad_manifest(manifest: BackendManifest) -> None:
    """Raise a PluginFault for a manifest nobody could work with.

    One of another contract version is left alone: its fields may mean something else.
    """
    if not _SLUG.fullmatch(manifest.name):
        raise _bad_manifest(f"names a backend '{manifest.name}', which is no lower-case slug")
    if manifest.contract_version != CONTRACT_VERSION:
        return
    if Capability.CAPABILITY_UNSPECIFIED in manifest.capabilities:
        raise _bad_manifest(f"declares an empty capability for backend '{manifest.name}'")
    for field, entry in (("rank_entry", manifest.rank_entry), ("engine_entry", manifest.engine_entry)):
        if entry and not _ENTRY.fullmatch(entry):
            raise _bad_manifest(f"gives {field} '{entry}', which is not of the form module:attribute")


def _bad_manifest(fact: str) -> PluginFault:
    return PluginFault(fact, "Correct the manifest: build it with tunefleet_core.backend.backend_manifest.")


def _end_children(before: set[int]) -> list[str]:
    """End the children that came since, and return them for people; those that ended are not told."""
    left: list[str] = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.pid in before or process.status() == psutil.STATUS_ZOMBIE:
                continue
            left.append(" ".join(process.cmdline())[:_SHOWN_LETTERS] or process.name())
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return left
