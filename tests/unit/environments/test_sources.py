"""Where plugins come from, and which others of this project they build on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunefleet_core import __version__
from tunefleet_core.environments import sources
from tunefleet_core.environments.sources import find_plugin_source, plugins_below


def _plugin(folder: Path, *dependencies: str) -> Path:
    folder.mkdir(parents=True)
    names = ", ".join(f'"{name}"' for name in dependencies)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "tunefleet-{folder.name}"\ndependencies = [{names}]\n'
    )
    return folder


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree in which `middle` builds on `lowest`."""
    _plugin(tmp_path / "plugins" / "lowest", "torch>=2", "tunefleet")
    _plugin(tmp_path / "plugins" / "middle", "tunefleet", "tunefleet-lowest>=0.1")
    monkeypatch.setattr(sources, "source_tree", lambda: tmp_path)
    return tmp_path


def test_what_a_plugin_builds_on_comes_before_it_and_once(tree: Path) -> None:
    own = _plugin(tree / "elsewhere" / "mine", "tunefleet-lowest", "tunefleet-middle", "numpy")
    below = plugins_below(find_plugin_source(str(own)))
    assert [item.name for item in below] == ["lowest", "middle"]
    assert below[0].install_arguments == ("--editable", str(tree / "plugins" / "lowest"))


def test_without_a_source_tree_it_is_the_release_of_this_tunefleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _plugin(tmp_path / "mine", "tunefleet", "tunefleet-trl[nf4]>=0.1 ; sys_platform == 'linux'")
    monkeypatch.setattr(sources, "source_tree", lambda: None)
    (below,) = plugins_below(find_plugin_source(str(own)))
    assert below.install_arguments == (f"tunefleet-trl=={__version__}",)


def test_a_plugin_that_stands_alone_builds_on_none(tree: Path) -> None:
    assert plugins_below(find_plugin_source("lowest")) == []
