"""Rows of other trainers are named, and the command of the hint turns them into rows that are read."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tunefleet_core.data import COMPLETIONS, form_of_file, read_completions, read_rows
from tunefleet_core.errors import Reason, TunefleetError

SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Answer in German."},
        {"from": "human", "value": "red"},
        {"from": "gpt", "value": "rot"},
    ]
}
RENAMED = {"conversations": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "rot"}]}
ALPACA = {"instruction": "Translate.", "input": "red", "output": "rot"}
RESPONSE = {"prompt": "red", "response": "rot"}


def refused(path: Path) -> TunefleetError:
    with pytest.raises(TunefleetError) as caught:
        list(read_rows(path))
    assert caught.value.reason is Reason.DATA_INVALID
    return caught.value


@pytest.mark.parametrize(
    ("row", "what", "said"),
    [
        (SHAREGPT, "a conversation of ShareGPT", ["Answer in German.", "red", "rot"]),
        (RENAMED, "a conversation under another name", ["red", "rot"]),
        (ALPACA, "an instruction of Alpaca", ["Translate.\n\nred", "rot"]),
        ({**ALPACA, "input": ""}, "an instruction of Alpaca", ["Translate.", "rot"]),
        (RESPONSE, "a prompt with its response", ["red", "rot"]),
    ],
)
def test_the_hint_turns_rows_of_other_trainers(
    tmp_path: Path, row: dict[str, object], what: str, said: list[str]
) -> None:
    (tmp_path / "OLD").write_text(json.dumps(row) + "\n", encoding="utf-8")
    error = refused(tmp_path / "OLD")
    assert f"is missing; this is {what}." in error.message
    if shutil.which("jq") is None:
        pytest.skip("the command of the hint needs jq")
    command = error.hint.removeprefix("Turn the file: ")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    turned = tmp_path / "rows.jsonl"
    is_answered = form_of_file(turned) is COMPLETIONS
    read = next(read_completions(turned)).row if is_answered else next(read_rows(turned))
    chat = read.as_chat()
    assert [turn["content"] for turn in chat] == said
    assert chat[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("instruction,output\nred,rot\n", "This looks like a table (CSV)."),
        (json.dumps([RENAMED], indent=1), "This looks like one JSON array for the whole file"),
        (json.dumps(RENAMED, indent=1), "This looks like JSON over several lines"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "rows"
    path.write_text(text, encoding="utf-8")
    assert refused(path).hint.startswith(hint)


def test_a_number_of_thousands_of_digits_is_refused_without_words_of_python(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": ' + "9" * 5000 + ', "messages": []}\n', encoding="utf-8")
    error = refused(path)
    assert error.message == "rows.jsonl:1: holds a whole number of thousands of digits."
