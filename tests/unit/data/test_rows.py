"""The row reader: what it reads, and what it says about a wrong row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunefleet_core.data import MAX_LINE_BYTES, Message, Row, file_digest, read_rows
from tunefleet_core.errors import Reason, TunefleetError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
GOOD = json.dumps({"messages": [USER, ANSWER]})


def write(folder: Path, content: str | bytes, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, *, require_assistant: bool = True) -> TunefleetError:
    with pytest.raises(TunefleetError) as caught:
        list(read_rows(path, require_assistant=require_assistant))
    assert caught.value.reason is Reason.DATA_INVALID
    assert caught.value.hint
    return caught.value


def test_rows_come_in_order_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, f"\ufeff{GOOD}\n\n   \r\n{GOOD}\r\n{GOOD}")
    rows = list(read_rows(path))
    assert [row.line for row in rows] == [1, 4, 5]
    assert rows[0] == Row(
        line=1, messages=(Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
    )
    assert rows[0].as_chat() == [USER, ANSWER]


def test_text_parts_are_joined_and_other_fields_of_the_row_are_left_alone(tmp_path: Path) -> None:
    parts = {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"text": "ß"}]}
    row = {"id": 7, "messages": [USER | {"name": None}, parts]}
    assert next(read_rows(write(tmp_path, json.dumps(row)))).messages[1].content == "aß"


def test_a_row_without_answer_is_read_when_no_answer_is_required(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"messages": [USER]}))
    assert len(list(read_rows(path, require_assistant=False))) == 1


def row_of(*messages: object) -> str:
    return json.dumps({"messages": list(messages)})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"messages": [}', "is not JSON: Expecting value at column 15."),
        ('{"messages": [', "is not JSON: it ends at column 14, unfinished."),
        ('{"messages": "a', "is not JSON: Unterminated string starting at at column 14."),
        ('{"messages": NaN}', "is not JSON: NaN is no JSON value."),
        ('{"messages": ' + "1" * 5000 + "}", "holds a whole number of thousands of digits"),
        ("[" * 200_000, "is n"),  # nested too deeply, or no JSON, by the interpreter's depth
        ("[]", "must be an object, got a list."),
        ("3", "must be an object, got a number."),
        ("{}", "messages: is missing."),
        ('{"message": []}', "messages: is missing; the row has 'message' instead."),
        (
            '{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}',
            "messages: is missing; the row has 'a', 'b', 'c', 'd' and more.",
        ),
        ('{"messages": [], "messages": []}', "messages: is given twice in one object."),
        ('{"messages": null}', "messages: must be a list, got null."),
        ('{"messages": []}', "messages: is an empty list."),
        (row_of("Hi"), "messages[0]: must be an object with 'role' and 'content', got a string."),
        (row_of({"content": "x"}), "messages[0].role: is missing."),
        (row_of({"role": 1, "content": "x"}), "messages[0].role: must be a string, got a number."),
        (
            row_of(USER, {"role": "assistent", "content": "x"}),
            'messages[1].role: must be one of system, user, assistant, tool, got "assistent"; '
            "did you mean 'assistant'?",
        ),
        (row_of({"role": "user"}), "messages[0].content: is missing."),
        (
            row_of({"role": "user", "content": None}),
            "messages[0].content: must be a string or a list of text parts, got null.",
        ),
        (
            row_of(USER, {"role": "assistant", "content": ["x"]}),
            'messages[1].content[0]: must be {"type": "text", "text": "..."}, got a string.',
        ),
        (
            row_of(USER, {"role": "assistant", "content": [{"type": "image_url"}]}),
            "messages[1].content[0].type: must be 'text', got \"image_url\".",
        ),
        (row_of({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text: is missing."),
        (
            row_of(USER, ANSWER | {"function_call": {}}),
            "messages[1].function_call: is not a field of a message",
        ),
        (
            row_of({"role": "user", "contents": "x"}),
            "messages[0].contents: is not a field of a message; did you mean 'content'?",
        ),
        (
            row_of(USER, ANSWER | {"content": "a\ud800"}),
            "messages[1].content: holds half a surrogate pair, \\ud800, at character 1.",
        ),
        (
            row_of({"role": "system", "content": "x"}, USER),
            "messages: has no turn of the role 'assistant', so nothing could be learned; "
            "roles found: system, user.",
        ),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_field(tmp_path: Path, line: str, expected: str) -> None:
    error = refusal(write(tmp_path, f"{GOOD}\n{line}\n"))
    assert error.message.startswith(f"train.jsonl:2: {expected}")
    assert error.metadata["line"] == "2"
    assert error.violations


def test_text_that_is_not_utf8_is_named_by_its_offset_in_the_file(tmp_path: Path) -> None:
    first = GOOD.encode() + b"\n"
    error = refusal(write(tmp_path, first + b'{"messages": "\xe4"}'))
    assert f"train.jsonl:2: is not UTF-8: byte 0xe4 at offset {len(first) + 14} of the file." == error.message


def test_the_offset_counts_the_byte_order_mark(tmp_path: Path) -> None:
    assert "offset 5 of" in refusal(write(tmp_path, b"\xef\xbb\xbfab\xff")).message


def test_a_line_may_be_as_long_as_the_bound_and_no_longer(tmp_path: Path) -> None:
    room = MAX_LINE_BYTES - len(row_of(USER, ANSWER | {"content": ""}))
    fits = row_of(USER, ANSWER | {"content": "x" * room})
    assert len(list(read_rows(write(tmp_path, f"{fits}\r\n{GOOD}\n")))) == 2
    longer = row_of(USER, ANSWER | {"content": "x" * (room + 1)})
    error = refusal(write(tmp_path, f"{GOOD}\n{longer}\n"))
    assert error.message == "train.jsonl:2: is longer than 8 MiB."
    assert "Shorten or remove line 2 of" in error.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps([json.loads(GOOD)]), "one JSON array for the whole file"),
        (json.dumps([json.loads(GOOD)], indent=1), "one JSON array for the whole file"),
        (json.dumps(json.loads(GOOD), indent=1), "JSON over several lines"),
        ('{"instruction": "a", "input": "", "output": "b"}', "jq -c"),
        ('{"id": 1, "conversations": [{"from": "human", "value": "a"}]}', ".conversations[]"),
    ],
)
def test_a_file_of_another_kind_is_told_how_to_be_one_of_these(
    tmp_path: Path, content: str, says: str
) -> None:
    error = refusal(write(tmp_path, content))
    assert error.message.startswith("train.jsonl:1: ")
    assert says in error.hint


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    assert refusal(write(tmp_path, content)).message == "train.jsonl: has no rows."


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.jsonl").message == f"No data file at '{tmp_path / 'none.jsonl'}'."
    assert refusal(tmp_path).message == f"'{tmp_path}' is a folder, not a data file."


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert file_digest(write(tmp_path, "")) == empty
    with pytest.raises(TunefleetError, match=f"No data file at '{tmp_path / 'none'}'") as caught:
        file_digest(tmp_path / "none")
    assert caught.value.reason is Reason.DATA_INVALID
    assert "tunefleet datasets create" in caught.value.hint
    with pytest.raises(TunefleetError, match="is a folder, not a data file"):
        file_digest(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "role", "content", "type", "text", "x"]), inner)
    ),
    max_leaves=12,
)
BOUNDED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@BOUNDED
@given(content=st.binary(max_size=200) | st.lists(JSON, max_size=3).map(lambda rows: as_lines(rows)))
def test_any_bytes_are_read_or_refused_as_data(tmp_path: Path, content: bytes) -> None:
    try:
        rows = list(read_rows(write(tmp_path, content)))
    except TunefleetError as error:
        is_fine = error.reason is Reason.DATA_INVALID
    else:
        is_fine = all(row.messages for row in rows)
    assert is_fine


@BOUNDED
@given(
    texts=st.lists(st.lists(st.text(), min_size=1, max_size=3), min_size=1, max_size=4),
    is_ascii=st.booleans(),
)
def test_what_json_writes_is_read_back(tmp_path: Path, texts: list[list[str]], is_ascii: bool) -> None:
    chats = [[{"role": "assistant", "content": text} for text in row] for row in texts]
    lines = [json.dumps({"messages": chat}, ensure_ascii=is_ascii) for chat in chats]
    rows = list(read_rows(write(tmp_path, "\n".join(lines))))
    assert [row.as_chat() for row in rows] == chats


def as_lines(rows: list[object]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")
