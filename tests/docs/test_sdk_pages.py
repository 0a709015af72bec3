"""Every example of the SDK's pages runs, in order, against a fleet as a reader starts it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from local_fleet import LocalFleet
from pages import Block, blocks, run

from tunefleet_client.errors import ERROR_CLASSES
from tunefleet_core.errors import Reason, code_of

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "docs" / "sdk.md"
TRAINING = ROOT / "docs" / "sdk-training.md"

_ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.MULTILINE)


def reach(fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Be a reader beside the fleet, in a folder."""
    for name in ("TUNEFLEET_ADDRESS", "TUNEFLEET_TOKEN", "TUNEFLEET_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNEFLEET_STATE", str(fleet.state))
    monkeypatch.chdir(folder)


async def read(page: Path, folder: Path) -> dict[str, Any]:
    """Run a page from top to bottom; return what its code left."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(page)
    assert [block for block in found if block.language == "python"]
    for block in found:
        await run(block, namespace, folder)
    return namespace


@pytest.mark.asyncio(loop_scope="module")
async def test_the_sdk_page_runs(
    echo_fleet: LocalFleet,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reach(echo_fleet, monkeypatch, tmp_path)
    left = await read(SDK, tmp_path)
    await read(ROOT / "clients" / "README.md", tmp_path)
    assert left["job"].state == left["JobState"].JOB_STATE_SUCCEEDED
    assert left["text"]
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    said = capsys.readouterr().out
    assert "JOB_NOT_FOUND" not in said  # the message and the hint were printed, not the reason
    assert "train.optim.epochs must be greater than 0" in said


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.timeout(600)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_training_page_runs(
    trl_fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    reach(trl_fleet, monkeypatch, tmp_path)
    left = await read(TRAINING, tmp_path)
    assert left["answer"]
    assert left["check"].audit.trained_tokens > 0


def test_the_table_of_errors_is_the_table_of_the_sdk() -> None:
    rows = {name: re.findall(r"`(\w+)`", reasons) for name, reasons in _ROW.findall(SDK.read_text())}
    expected = {
        kind.__name__: [reason.value for reason in Reason if code_of(reason) == code]
        for code, kind in ERROR_CLASSES.items()
    }
    assert {name: sorted(reasons) for name, reasons in rows.items()} == {
        name: sorted(reasons) for name, reasons in expected.items()
    }


async def test_a_broken_example_fails_with_the_line_of_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nimport asyncio\n\nawait asyncio.sleep(0)\nassert 1 == 2\n```\n")
    (block,) = blocks(page)
    with pytest.raises(AssertionError) as caught:
        await run(block, {}, tmp_path)
    assert caught.traceback[-1].lineno + 1 == 7
    assert isinstance(block, Block)
