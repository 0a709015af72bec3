"""Installing for real: a failed install leaves what was there working; a removal takes it away."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tunefleet_core.environments import EnvironmentIndex, describe_environment, install, remove
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.plugins.starter import write_starter


@pytest.mark.slow  # makes an environment and installs into it
@pytest.mark.timeout(400)
def test_a_failed_install_harms_nothing_and_a_removal_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNEFLEET_ENVS", raising=False)
    state, said = tmp_path / "state", list[str]()
    _write_plugin("clock", tmp_path)
    report = install(str(tmp_path / "clock"), state, said.append)
    assert not report.was_ready
    assert any("of a size known when they are there" in line for line in said)
    index = EnvironmentIndex(state)
    before = index.read()
    subprocess.run([report.environment.python, "-c", "import tunefleet_echo.rank"], check=True)

    # The same dependencies, so the same environment, which now gets a plugin that cannot be imported.
    _write_plugin("broken", tmp_path)
    plugin = tmp_path / "broken" / "tunefleet_broken" / "plugin.py"
    plugin.write_text(plugin.read_text() + "\nraise RuntimeError('out of order')\n")
    # One that is built no further than this.
    _write_plugin("unbuilt", tmp_path)
    project = tmp_path / "unbuilt" / "pyproject.toml"
    project.write_text(
        project.read_text().replace('packages = ["tunefleet_unbuilt"]', 'packages = ["no-such"]')
    )
    project.write_text(project.read_text().replace("hatchling.build", "no_such_builder"))
    for name, reason in (("broken", "RuntimeError: out of order"), ("unbuilt", "The installer failed")):
        with pytest.raises(TunefleetError, match=reason) as caught:
            install(str(tmp_path / name), state, said.append)
        assert caught.value.reason is Reason.BACKEND_NOT_INSTALLED
        assert caught.value.hint

    assert index.read() == before
    found = asyncio.run(describe_environment(before["clock"]))
    assert [(item.manifest.name, item.status) for item in found] == [("clock", "ACTIVE")]

    removed = remove("clock", state)
    assert removed.freed_bytes > 1_000_000
    assert index.read() == {}
    assert not index.folder_of(report.environment.digest).exists()


def _write_plugin(name: str, parent: Path) -> None:
    """Write one that builds on a plugin of this project: it is there for this one, and not offered."""
    write_starter(name, parent / name, "train")
    project = parent / name / "pyproject.toml"
    text = project.read_text()
    changed = text.replace('dependencies = ["tunefleet"]', 'dependencies = ["tunefleet", "tunefleet-echo"]')
    assert changed != text
    project.write_text(changed)
