"""Rows of OpenAI's fine-tuning API mean what the same rows of the Hub mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunefleet_core.data import count_rows, form_of_file, read_pairs, read_prompts, read_rows, tool_name
from tunefleet_core.errors import TunefleetError

_ASKED = [{"role": "user", "content": "red"}]
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_preferences_are_read_with_their_tools(tmp_path: Path) -> None:
    row = {
        "input": {"messages": _ASKED, "tools": [_TOOL], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": "rot"}],
        "non_preferred_output": [{"role": "assistant", "content": "no idea"}],
    }
    path = write(tmp_path, row)
    assert form_of_file(path).name == "preferences"
    assert count_rows(path) == 1
    pair = next(read_pairs(path))
    assert [turn.content for turn in (*pair.prompt, *pair.chosen, *pair.rejected)] == [
        "red",
        "rot",
        "no idea",
    ]
    assert [tool_name(tool) for tool in pair.tools] == ["look"]


def test_questions_keep_their_other_fields_for_rewards(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": _ASKED, "answer": "rot", "parallel_tool_calls": True})
    assert form_of_file(path).name == "prompts"
    assert count_rows(path) == 1
    row = next(read_prompts(path))
    assert (row.prompt[0].content, row.fields) == ("red", {"answer": "rot"})


def test_a_question_is_no_conversation_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="no turn of the role 'assistant'"):
        list(read_rows(write(tmp_path, {"messages": _ASKED})))


def test_what_is_wrong_in_a_question_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match=r"rows.jsonl:1: messages\[0\]\.content"):
        list(read_prompts(write(tmp_path, {"messages": [{"role": "user", "content": 5}]})))
    answered = {"messages": [*_ASKED, {"role": "assistant", "content": "rot"}]}
    with pytest.raises(TunefleetError, match="which the method sft takes"):
        list(read_prompts(write(tmp_path, answered)))
