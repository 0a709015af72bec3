"""Rows that judge answers: what is read of them, and what is said about a wrong one."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunefleet_core.data import (
    COMPLETIONS,
    TEXTS,
    count_rows,
    form_of_file,
    form_of_method,
    read_completions,
    read_labelled,
    read_pairs,
    read_prompts,
    read_rows,
    read_texts,
    supervised_form,
)
from tunefleet_core.errors import Reason, TunefleetError

ASK = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "Go away"}
PAIR = {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}
LABELLED = {"prompt": [ASK], "completion": [GOOD], "label": True}
ANSWERED = {"prompt": [ASK], "completion": [GOOD]}
PROMPT = {"prompt": [ASK], "answer": "Hello", "hints": {"a": [1]}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "look", "arguments": {}}}],
}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "5"}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


READERS = {
    "sft": read_rows,
    "answered": read_completions,
    "text": read_texts,
    "dpo": read_pairs,
    "kto": read_labelled,
    "grpo": read_prompts,
}
ROWS = {
    "sft": {"messages": [ASK, GOOD]},
    "answered": ANSWERED,
    "text": {"text": "Hi"},
    "dpo": PAIR,
    "kto": LABELLED,
    "grpo": PROMPT,
}


def refusal(path: Path, method: str) -> TunefleetError:
    read = READERS[method]
    with pytest.raises(TunefleetError) as caught:
        list(read(path))
    assert caught.value.reason is Reason.DATA_INVALID
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        {"prompt": ASK, "chosen": GOOD, "rejected": BAD},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {**PAIR, "score_chosen": 9.0, "tools": None},
    ],
)
def test_a_pair_is_the_same_however_the_field_writes_it(tmp_path: Path, row: object) -> None:
    (pair,) = read_pairs(write(tmp_path, row))
    assert pair.chosen_row.as_chat() == [ASK, GOOD]
    assert pair.rejected_row.as_chat() == [ASK, BAD]
    assert [turn.as_chat() for turn in pair.prompt] == [ASK]


def test_a_conversation_written_twice_shares_its_beginning(tmp_path: Path) -> None:
    row = {"chosen": [ASK, GOOD, ASK, GOOD], "rejected": [ASK, GOOD, ASK, BAD]}
    (pair,) = read_pairs(write(tmp_path, row))
    assert [turn.as_chat() for turn in pair.prompt] == [ASK, GOOD, ASK]
    (same,) = read_pairs(write(tmp_path, {"chosen": [ASK, GOOD], "rejected": [ASK, GOOD]}))
    assert same.chosen == same.rejected
    assert len(same.chosen) == 1


def test_an_answer_may_call_tools(tmp_path: Path) -> None:
    (pair,) = read_pairs(write(tmp_path, {**PAIR, "chosen": [CALL, RESULT, GOOD]}))
    assert [turn.role for turn in pair.chosen] == ["assistant", "tool", "assistant"]


def test_labelled_answers_keep_their_label(tmp_path: Path) -> None:
    rows = list(read_labelled(write(tmp_path, LABELLED, {**LABELLED, "label": False})))
    assert [row.is_good for row in rows] == [True, False]
    assert rows[1].line == 2
    assert rows[0].row.as_chat() == [ASK, GOOD]


def test_an_answer_follows_its_prompt(tmp_path: Path) -> None:
    for row in (ANSWERED, {"prompt": "Hi", "completion": "Hello"}):
        (read,) = read_completions(write(tmp_path, row))
        assert read.row.as_chat() == [ASK, GOOD]


def test_a_text_is_kept_as_it_is(tmp_path: Path) -> None:
    (row,) = read_texts(write(tmp_path, {"text": " Hi\n", "source": "web"}))
    assert (row.line, row.text) == (1, " Hi\n")


def test_the_first_row_tells_which_form_supervised_training_reads(tmp_path: Path) -> None:
    assert supervised_form(write(tmp_path, {"text": "a"})) is TEXTS
    assert supervised_form(write(tmp_path, ANSWERED)) is COMPLETIONS
    for row in ({"messages": [ASK, GOOD], "text": "a"}, PAIR, LABELLED, {"question": "a"}):
        assert supervised_form(write(tmp_path, row)).name == "conversations"


def test_the_first_row_tells_the_form_of_a_file(tmp_path: Path) -> None:
    assert form_of_file(write(tmp_path, {"question": "a"})).name == "conversations"
    names = [form_of_file(write(tmp_path, row)).name for row in ROWS.values()]
    assert len(set(names)) == len(names)


def test_a_prompt_keeps_its_further_fields_for_rewards(tmp_path: Path) -> None:
    (row,) = read_prompts(write(tmp_path, PROMPT))
    assert [turn.as_chat() for turn in row.prompt] == [ASK]
    assert row.fields == {"answer": "Hello", "hints": {"a": [1]}}


@pytest.mark.parametrize(
    ("method", "row", "field", "says"),
    [
        ("dpo", {"messages": [ASK, GOOD]}, "chosen", "are conversations, which the method sft"),
        ("dpo", LABELLED, "chosen", "which the method kto takes"),
        ("kto", PAIR, "completion", "which the method dpo, ipo, orpo, simpo or reward"),
        ("sft", PAIR, "messages", "which the method dpo, ipo, orpo, simpo or reward"),
        ("sft", LABELLED, "messages", "which the method kto takes"),
        ("dpo", {"prompt": [ASK], "choosen": [GOOD], "rejected": [BAD]}, "chosen", "has 'choosen' instead"),
        ("dpo", {**PAIR, "prompt": [ASK, GOOD]}, "prompt[1].role", "a prompt ends with what is to be"),
        ("dpo", {**PAIR, "chosen": [ASK]}, "chosen[0].role", "only the assistant speaks"),
        ("dpo", {**PAIR, "rejected": [BAD, ASK]}, "rejected[1].role", "only the assistant speaks"),
        ("dpo", {**PAIR, "rejected": []}, "rejected", "is an empty list"),
        ("dpo", {**PAIR, "rejected": 3}, "rejected", "must be a list of turns, one turn or a text"),
        ("dpo", {**PAIR, "chosen": [RESULT, GOOD]}, "chosen", "must begin and end with a turn"),
        ("dpo", {"chosen": [GOOD], "rejected": [BAD]}, "prompt", "is missing, and the two answers begin"),
        ("dpo", {**PAIR, "chosen": [GOOD, RESULT, GOOD]}, "chosen[1].role", "no call stands before it"),
        ("dpo", {**PAIR, "chosen": [{"role": "assistant"}]}, "chosen[0].content", "is missing"),
        ("kto", {**LABELLED, "label": 1}, "label", "must be true or false, got a number"),
        ("kto", {**LABELLED, "label": None}, "label", "must be true or false, got null"),
        ("kto", {"prompt": [ASK], "completion": [GOOD]}, "label", "which the method sft takes"),
        ("sft", {"text": "Hi"}, "messages", "the row is one of texts, the rows before it are conversations"),
        ("text", {"messages": [ASK, GOOD]}, "text", "the row is one of conversations"),
        ("text", PAIR, "text", "which the method dpo, ipo, orpo, simpo or reward"),
        ("text", {"text": ["Hi"]}, "text", "must be a text, got a list"),
        ("text", {"text": " \n"}, "text", "is empty"),
        ("text", {"text": "\ud800"}, "text", "half a surrogate pair"),
        ("answered", {"prompt": [ASK]}, "completion", "which the method grpo, rloo or distill takes"),
        ("answered", {**ANSWERED, "completion": [ASK]}, "completion[0].role", "only the assistant speaks"),
        ("dpo", {"text": "Hi"}, "chosen", "which the method sft takes"),
        ("grpo", {"messages": [ASK, GOOD]}, "prompt", "which the method sft takes"),
        ("grpo", {"prompt": [ASK, GOOD]}, "prompt[1].role", "a prompt ends with what is to be answered"),
        ("grpo", {"prompt": []}, "prompt", "is an empty list"),
        ("grpo", {"prompt": "q", "answer": "\ud800"}, "answer", "half a surrogate pair"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_refused_by_line_and_field(
    tmp_path: Path, method: str, row: object, field: str, says: str
) -> None:
    error = refusal(write(tmp_path, ROWS[method], row), method)
    assert error.message.startswith(f"train.jsonl:2: {field}: ")
    assert says in error.message


def test_the_next_step_of_a_wrong_form_is_the_method_that_takes_it(tmp_path: Path) -> None:
    assert "Set train.method to kto" in refusal(write(tmp_path, LABELLED), "dpo").hint


def test_rows_are_counted_by_the_form_of_the_first(tmp_path: Path) -> None:
    assert count_rows(write(tmp_path, PAIR, PAIR)) == 2
    assert count_rows(write(tmp_path, LABELLED)) == 1
    assert count_rows(write(tmp_path, PROMPT)) == 1
    assert count_rows(write(tmp_path, {"messages": [ASK, GOOD]})) == 1
    assert count_rows(write(tmp_path, ANSWERED, ANSWERED)) == 2
    assert count_rows(write(tmp_path, {"text": "a"}, {"text": "b"})) == 2
    with pytest.raises(TunefleetError, match="chosen: is missing"):
        count_rows(write(tmp_path, PAIR, LABELLED))
    with pytest.raises(TunefleetError, match="messages: is missing"):
        count_rows(write(tmp_path, {"question": "Hi"}))


def test_a_method_nobody_knows_has_no_form() -> None:
    with pytest.raises(TunefleetError, match="what rows 'magic' takes is not known"):
        form_of_method("magic")


KEYS = (
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
    "text",
    "tools",
    "role",
    "content",
    "tool_calls",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=4)
    | st.sampled_from([ASK, GOOD, CALL, RESULT]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(st.sampled_from(KEYS[:7]), VALUES, max_size=6))
def test_whatever_a_row_holds_it_is_read_or_refused(tmp_path: Path, row: dict[str, object]) -> None:
    path = write(tmp_path, row)
    for read in (read_pairs, read_labelled, read_prompts, read_completions, read_texts):
        with contextlib.suppress(TunefleetError):
            assert len(list(read(path))) == 1
