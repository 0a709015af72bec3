"""Terminals made of memory, golden files, a fleet of samples."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import catalog_samples
import deployment_samples as served
import sample_names
import samples

from tunefleet_cli.output import Mode, Output
from tunefleet_client.testing import FakeCoordinator

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        """What a person sees, without colour and trailing spaces."""
        plain = _ANSI.sub("", self.getvalue())
        return "\n".join(line.rstrip() for line in plain.split("\n"))


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "TUNEFLEET_ADDRESS",
        "TUNEFLEET_TOKEN",
        "TUNEFLEET_CA",
        "NO_COLOR",
        "COLUMNS",
        "FORCE_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNEFLEET_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LINES", "32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """An Output and the files it writes to."""

    output: Output
    stdout: Terminal
    stderr: Terminal


@pytest.fixture
def printed() -> Callable[..., Printed]:
    def make(mode: Mode = Mode.HUMAN, width: int = 80) -> Printed:
        stdout, stderr = Terminal(), Terminal()
        output = Output(mode=mode, stdout=stdout, stderr=stderr, width=width, now=lambda: sample_names.NOW)
        return Printed(output=output, stdout=stdout, stderr=stderr)

    return make


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare with a file; `UPDATE_GOLDEN=1` writes it instead."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path} differs; UPDATE_GOLDEN=1 writes it anew"

    return check


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    """A FakeCoordinator with the samples, which the state folder names."""
    async with FakeCoordinator() as fake:
        fake.jobs = {job.name: job for job in samples.jobs()}
        fake.models = {model.name: model for model in samples.models()}
        fake.deployments = {item.name: item for item in served.deployments()}
        fake.services, fake.plugins, fake.plan = samples.services(), catalog_samples.plugins(), samples.plan()
        fake.write_state(tmp_path / "state")
        yield fake
