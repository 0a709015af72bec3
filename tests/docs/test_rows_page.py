"""The page about rows: every file on it can be read, every example runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pages import blocks, run

from tunefleet_core.data import (
    read_completions,
    read_labelled,
    read_pairs,
    read_prompts,
    read_rows,
    read_texts,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rows.md"


@pytest.mark.asyncio
async def test_the_page_about_rows_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(PAGE)
    for block in found:
        await run(block, namespace, tmp_path)
    files = [block.file for block in found if block.language == "jsonl"]
    chats = ["chat.jsonl", "tools.jsonl", "thoughts.jsonl"]
    assert files == [*chats, "answers.jsonl", "texts.jsonl", "pairs.jsonl", "labels.jsonl", "prompts.jsonl"]
    for file in chats:
        assert len(list(read_rows(file))) == 2
    assert len(list(read_completions("answers.jsonl"))) == 2
    assert len(list(read_texts("texts.jsonl"))) == 2
    assert len(list(read_pairs("pairs.jsonl"))) == 2
    assert [row.is_good for row in read_labelled("labels.jsonl")] == [True, False]
    assert [row.fields for row in read_prompts("prompts.jsonl")] == [{"answer": "51"}, {"answer": "4"}]
    assert namespace["tools"][0]["function"]["name"] == "get_weather"
