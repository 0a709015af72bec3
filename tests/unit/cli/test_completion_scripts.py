"""The completion scripts, read and used by the shells that they are for, where those are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

_LIMIT_SECONDS = 60.0  # a completion takes one start of Python
_BASH = """
source SCRIPT
complete -p tunefleet
COMP_WORDS=(tunefleet jobs pau); COMP_CWORD=2; _tunefleet_completion tunefleet pau jobs
printf '%s\\n' "${COMPREPLY[@]}"
"""
_FISH = 'source SCRIPT; complete --do-complete "tunefleet jobs pau"'


def _needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """An environment in which `tunefleet` is this very checkout."""
    program = tmp_path / "bin" / "tunefleet"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tunefleet_cli "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def _script(shell: str, environment: Mapping[str, str], folder: Path) -> Path:
    made = subprocess.run(
        ["tunefleet", "completion", shell, "-q"], env=environment, capture_output=True, text=True, check=True
    )
    script = folder / f"completion.{shell}"
    script.write_text(made.stdout)
    return script


@pytest.mark.parametrize(
    ("shell", "check"),
    [
        ("bash", ["bash", "-n"]),
        ("zsh", ["zsh", "-f", "-n"]),
        ("fish", ["fish", "--no-config", "--no-execute"]),
    ],
)
def test_the_shell_can_read_its_script(
    shell: str, check: list[str], environment: Mapping[str, str], tmp_path: Path
) -> None:
    _needs(shell)
    script = _script(shell, environment, tmp_path)
    read = subprocess.run([*check, str(script)], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "lines"),
    [(["bash", "--norc", "-c"], _BASH), (["fish", "--no-config", "-c"], _FISH)],
    ids=["bash", "fish"],
)
def test_the_shell_offers_what_fits(
    command: list[str], lines: str, environment: Mapping[str, str], tmp_path: Path
) -> None:
    shell = command[0]
    _needs(shell)
    script = _script(shell, environment, tmp_path)
    asked = subprocess.run(
        [*command, lines.replace("SCRIPT", str(script))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_LIMIT_SECONDS,
        check=True,
    )
    offered = [line.split("\t")[0] for line in asked.stdout.splitlines()]
    assert offered[-1] == "pause"
    assert len(offered) == (2 if shell == "bash" else 1), asked.stdout  # bash says what it calls first


def test_zsh_completes_at_its_prompt(environment: Mapping[str, str], tmp_path: Path) -> None:
    """Its completion works inside its line editor alone, so it gets a terminal and a TAB."""
    _needs("zsh")
    script = _script("zsh", environment, tmp_path)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**environment, "TERM": "dumb"})
    try:
        # The word is written in two halves, so that its echo is not taken for it.
        os.write(terminal, f"autoload -U compinit; compinit -u -D; source {script}; echo rea''dy\n".encode())
        _read_until(b"ready", terminal)
        os.write(terminal, b"tunefleet jobs pau\t")
        _read_until(b"tunefleet jobs pause ", terminal)
    finally:
        os.close(terminal)  # its line editor ends with its terminal
        os.waitpid(pid, 0)


def _read_until(wanted: bytes, terminal: int) -> None:
    read, end = b"", time.monotonic() + _LIMIT_SECONDS
    while wanted not in read:
        assert time.monotonic() < end, read
        if select.select([terminal], [], [], 1.0)[0]:
            read += os.read(terminal, 4096)
