"""A description is remembered until what it describes has changed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.environments import Environment, describe_environment
from tunefleet_core.environments import describe as module


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Environments that were asked, by interpreter; each answers with a source below the folder."""
    calls: list[str] = []

    async def ask(environment: Environment, *arguments: str, plugin: str = "") -> str:
        calls.append(environment.python)
        return json.dumps({"backends": [], "failed": [], "sources": [str(tmp_path / "plugin")]})

    monkeypatch.setattr(module, "_ask", ask)
    return calls


async def test_an_answer_is_remembered_until_an_editable_source_is_newer(
    asked: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "plugin" / "tunefleet_other" / "plugin.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    os.utime(source, (1, 1))
    environment = Environment(digest="d", python=sys.executable)
    cache = tmp_path / "describe.json"
    for _ in range(3):
        assert await describe_environment(environment, cache) == []
    assert len(asked) == 1

    later = cache.stat().st_mtime + 5
    os.utime(source, (later, later))
    await describe_environment(environment, cache)
    assert len(asked) == 2


_OF_A_NEWER = '{"backends": [{"name": "a", "flies": true}], "failed": [], "sources": []}'


@pytest.mark.parametrize("content", ["", "{", "[]", '{"backends": [], "failed": []}', _OF_A_NEWER])
async def test_what_another_version_or_a_crash_left_is_asked_again(
    asked: list[str], tmp_path: Path, content: str
) -> None:
    cache = tmp_path / "describe.json"
    cache.write_text(content)
    assert await describe_environment(Environment(digest="d", python=sys.executable), cache) == []
    assert len(asked) == 1


async def test_a_plugin_that_another_builds_on_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the environment; whoever wants its backend installs it, with all that it needs."""
    backends = [
        {"name": name, "plugin": f"tunefleet-{name}==0.1.0", "contract_version": CONTRACT_VERSION}
        for name in ("above", "below")
    ]
    failed = [{"name": "odd", "dist": "tunefleet-odd", "version": "1", "error": "no", "hint": "none"}]

    async def ask(environment: Environment, *arguments: str, plugin: str = "") -> str:
        return json.dumps({"backends": backends, "failed": failed, "sources": []})

    monkeypatch.setattr(module, "_ask", ask)

    async def names(*plugins: str) -> list[str]:
        environment = Environment(digest="d", python=sys.executable, plugins=plugins)
        return [item.manifest.name for item in await describe_environment(environment)]

    assert await names("above") == ["above"]
    assert await names("above", "below") == ["above", "below"]
    assert await names() == ["above", "below", "odd"], "of an environment without an index all count"
