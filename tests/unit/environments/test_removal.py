"""Removing plugins: the index first, then files nobody needs or uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunefleet_core.environments import Environment, EnvironmentIndex, remove
from tunefleet_core.environments.install import _size  # pyright: ignore[reportPrivateUsage]
from tunefleet_core.environments.layout import COMPLETE
from tunefleet_core.environments.sources import PluginSource
from tunefleet_core.errors import Reason, TunefleetError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EnvironmentIndex:
    monkeypatch.delenv("TUNEFLEET_ENVS", raising=False)
    return EnvironmentIndex(tmp_path)


def environment(index: EnvironmentIndex, digest: str, *plugins: str) -> Path:
    """Make a finished environment that plugins use."""
    folder = index.folder_of(digest)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "package.bin").write_bytes(bytes(1000))
    (folder / COMPLETE).touch()
    for plugin in plugins:
        index.add(plugin, Environment(digest=digest, python=str(folder / "bin" / "python")))
    return folder


def test_the_last_plugin_takes_its_environment_along(index: EnvironmentIndex, tmp_path: Path) -> None:
    gone = environment(index, "aaaa", "one")
    kept = environment(index, "bbbb", "two")
    report = remove("one", tmp_path)
    assert (report.plugin, report.shared_with, report.used_by) == ("one", (), ())
    assert report.freed_bytes >= 1000
    assert not gone.exists()
    assert kept.exists()
    assert sorted(index.read()) == ["two"]


def test_a_shared_environment_stays(index: EnvironmentIndex, tmp_path: Path) -> None:
    folder = environment(index, "aaaa", "one", "two")
    report = remove("one", tmp_path)
    assert report.shared_with == ("two",)
    assert folder.exists()
    assert index.read()["two"].plugins == ("two",)


def test_one_that_another_builds_on_stays_until_that_is_gone(index: EnvironmentIndex, tmp_path: Path) -> None:
    """By the library between them too; what a plugin elsewhere builds on is another copy."""
    folder = environment(index, "aaaa", "low", "high", "beside")
    environment(index, "bbbb", "elsewhere")
    site = folder / "lib" / "python3.11" / "site-packages"
    requires = {
        "tunefleet_low": "",
        "tunefleet_high": "between>=1 ; python_version >= '3'",
        "tunefleet_beside": "rich",
    }
    for name, requirement in {**requires, "between": "Tunefleet.Low"}.items():
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        line = f"Requires-Dist: {requirement}\n" if requirement else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{line}")
    before = index.read()
    with pytest.raises(TunefleetError, match="'low' stays: 'high' of the same environment") as caught:
        remove("low", tmp_path)
    assert caught.value.reason is Reason.STATE_CONFLICT
    assert caught.value.hint.endswith("tunefleet plugins remove high")
    assert index.read() == before
    assert remove("beside", tmp_path).shared_with == ("high", "low")
    remove("high", tmp_path)
    assert remove("low", tmp_path).shared_with == ()


def test_one_that_is_not_there_is_refused_naming_what_is(index: EnvironmentIndex, tmp_path: Path) -> None:
    environment(index, "aaaa", "one")
    with pytest.raises(TunefleetError, match="'three' is not installed") as caught:
        remove("three", tmp_path)
    assert caught.value.reason is Reason.BACKEND_NOT_INSTALLED
    assert "one" in caught.value.hint


@pytest.fixture
def sleeper(index: EnvironmentIndex) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs from an environment."""
    folder = environment(index, "aaaa", "one")
    process = subprocess.Popen([str(folder / "bin" / "python"), "-c", "import time; time.sleep(600)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_files_stay_while_a_process_runs_from_them(
    index: EnvironmentIndex, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    environment(index, "bbbb", "two")
    report = remove("one", tmp_path)
    assert report.used_by == (sleeper.pid,)
    assert index.folder_of("aaaa").exists(), "a run would lose its libraries"
    assert "one" not in index.read(), "nothing new starts from it"
    sleeper.kill()
    sleeper.wait()
    remove("two", tmp_path)
    assert not index.folder_of("aaaa").exists()


def test_an_environment_that_is_being_built_is_left_alone(index: EnvironmentIndex, tmp_path: Path) -> None:
    environment(index, "aaaa", "one")
    building = environment(index, "bbbb")
    (building / COMPLETE).unlink()
    remove("one", tmp_path)
    assert building.exists()


def test_the_size_is_told_as_far_as_it_is_known(index: EnvironmentIndex, tmp_path: Path) -> None:
    source = PluginSource(
        name="one", distribution="tunefleet-one", locks=tmp_path, dependencies=("a",), install_arguments=()
    )
    told = _size(source, "# size: 3.0 GB\na==1\nb==2\n", index)
    assert told.startswith("2 packages, about 3.0 GB on disk, ")
    assert told.endswith(" GB free")
    assert "size unknown" in _size(source, "a==1\n", index)
