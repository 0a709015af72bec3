"""Rows with tools and thoughts: trained on exactly what the assistant writes, told where serving differs."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet.dataset.v1.audit_pb2 import MaskAudit
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.template import choose_template
from tunefleet_core.data import read_rows
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import read_contract
from tunefleet_core.rendering import Renderer, load_tokenizer, render_rows, training_rows
from tunefleet_core.resolve.audited import mask_notices
from tunefleet_families import LLAMA3, QWEN3
from tunefleet_trl.rank import TrlRank

TOOL = {
    "type": "function",
    "function": {
        "name": "w",
        "description": "Weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"city": "Ulm"}'}}
USER = {"role": "user", "content": "Ulm?"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "21"}
ROW: dict[str, Any] = {
    "tools": [TOOL],
    "messages": [USER, CALLS, RESULT, lab.chat("", "Warm.")["messages"][1]],
}
THINKS = {
    "messages": [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2", "reasoning_content": "one more than one"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "thinking": "twice two"},
    ]
}


def _audit(base: Path, folder: Path, rows: list[Any], *, template: str = "", **fields: Any) -> MaskAudit:
    facts = read_base(base)
    data = lab.write_rows(folder / "train.jsonl", rows)
    chosen = choose_template(facts, QWEN3).template
    chosen.text = template or chosen.text
    order = AuditOrder(
        base=facts,
        chat_template=chosen,
        files=[AuditFile(role="train", path=str(data))],
        loss_on="assistant",
        **fields,
    )
    (file,) = TrlRank().audit(order).files
    return file.mask


def test_a_row_with_a_call_trains_on_what_the_assistant_writes(
    base: Path, tmp_path: Path, rank: TrlRank
) -> None:
    data = lab.write_rows(tmp_path / "train.jsonl", [ROW, lab.chat("red", "rot")] * 4)
    resolved = lab.resolved(base, data=[("train", data)], spec=lab.train_spec(steps=4))
    resolved.spec.train.max_length = 1024
    context = lab.MemoryContext(lab.order(resolved, tmp_path / "work"))
    tokenizer = load_tokenizer(resolved.base)
    rows = training_rows(context, Renderer(tokenizer, resolved.chat_template)).train
    labels = rows[0].labels()
    spans = [
        tokenizer.decode([token for token, _ in group])
        for is_trained, group in groupby(
            zip(rows[0].input_ids, labels, strict=True), key=lambda pair: pair[1] != -100
        )
        if is_trained
    ]
    assert spans == [
        '<tool_call>\n{"name": "w", "arguments": {"city": "Ulm"}}\n</tool_call><|im_end|>',
        "Warm.<|im_end|>",
    ]
    rank.run(context)
    assert context.told[-1].step == 4
    assert context.told[-1].loss < context.told[0].loss
    contract = read_contract(context.output)
    assert any(record.tools for record in contract.tokens)
    assert any("tool_calls" in turn for record in contract.tokens for turn in record.messages)


def test_an_audit_counts_tools_and_thoughts_and_shows_them(base: Path, tmp_path: Path) -> None:
    mask = _audit(base, tmp_path, [ROW, lab.chat("red", "rot"), THINKS])
    assert (mask.rows, mask.rows_with_tools, mask.rows_with_thoughts) == (3, 1, 1)
    assert mask.end_of_turn_trained
    spans = mask.first_rows[0].spans
    assert not any(span.is_trained and "21" in span.text for span in spans)
    assert '"description": "Weather."' in spans[0].text
    assert not spans[0].is_trained
    tools = [reference for reference in mask.references if reference.tools_json]
    assert tools
    assert json.loads(tools[0].tools_json)[0]["function"]["name"] == "get_weather"


def test_rows_without_tools_are_held_to_plain_references_only(base: Path, tmp_path: Path) -> None:
    mask = _audit(base, tmp_path, [lab.chat("red", "rot")])
    assert len(mask.references) == 8
    assert not any(reference.tools_json for reference in mask.references)


def test_thoughts_that_a_prompt_has_no_room_for_are_told_with_number_and_line(
    base: Path, tmp_path: Path
) -> None:
    mask = _audit(base, tmp_path, [lab.chat("red", "rot"), THINKS, ROW, THINKS])
    assert (mask.rows_checked_as_prompts, mask.rows_with_prefix_breaks) == (4, 2)
    assert mask.rows_with_thoughts_left_out == 0, "ours keeps the thoughts of earlier answers"
    (notice,) = mask_notices(mask)
    assert "In 2 of 4 rows that were checked the prompt that is served is not the start" in notice.text
    assert "first on line 2, turn 1" in notice.text
    assert "enable_thinking" in notice.hint


def test_a_template_that_strips_earlier_thoughts_is_told_with_number_and_line(
    base: Path, tmp_path: Path
) -> None:
    """As Qwen3 is published: only the thoughts after the last question are shown."""
    published = Path(__file__).parents[2] / "families" / "tests" / "published" / "qwen3.jinja"
    text = published.read_text()
    for start in (
        "'<|im_start|>' + message.role + '\\n<think>",
        "'<|im_start|>' + message.role + '\\n' + content }}",
    ):
        assert start in text
    marked = text.replace("{%- if loop.index0 > ns", "{%- generation %}{%- if loop.index0 > ns")
    marked = marked.replace(
        "{{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\"",
        "{{- '<|im_end|>\\n' }}{%- endgeneration %}\n    {%- elif message.role == \"tool\"",
    )
    mask = _audit(base, tmp_path, [lab.chat("red", "rot"), ROW, THINKS, THINKS], template=marked)
    assert mask.rows_with_thoughts_left_out == 2
    assert mask.first_line_with_thoughts_left_out == 3
    assert (
        "The chat template leaves thoughts out of 2 of 4 rows, first on line 3"
        in next(mask_notices(mask)).text
    )


@pytest.mark.parametrize(
    ("row", "field", "fact"),
    [
        (ROW, "tools", "shows no tools"),
        ({"messages": ROW["messages"][:2]}, "messages[1].tool_calls", "shows no tool calls"),
        (THINKS, "messages[1].reasoning_content", "shows no thoughts"),
    ],
)
def test_what_a_template_leaves_out_is_refused_by_line_and_field(
    base: Path, tmp_path: Path, row: Any, field: str, fact: str
) -> None:
    with pytest.raises(TunefleetError) as caught:
        _audit(base, tmp_path, [lab.chat("red", "rot"), row], template=LLAMA3.chat_template)
    assert caught.value.reason is Reason.DATA_INVALID
    assert caught.value.message.startswith(f"train.jsonl:2: {field}: the chat template {fact}")
    assert caught.value.hint


def test_rows_with_other_tools_are_rendered_apart(base: Path, tmp_path: Path) -> None:
    """Tools with the same keys in another order are other tools: the template prints them so."""
    function = TOOL["function"]
    assert isinstance(function, dict)
    turned = TOOL | {"function": dict(reversed(function.items()))}
    rows = [ROW, ROW | {"tools": [turned]}, lab.chat("a", "b"), ROW]
    data = str(lab.write_rows(tmp_path / "train.jsonl", rows))
    resolved = lab.resolved(base, data=[], spec=lab.train_spec())
    renderer = Renderer(load_tokenizer(resolved.base), resolved.chat_template)
    together = [one.input_ids for _, one in render_rows(data, read_rows(data), renderer)]
    assert together == [renderer.row(row.as_chat(), row.tools).input_ids for row in read_rows(data)]
    assert together[0] == together[3]
    assert together[0] != together[1]


def test_a_template_with_other_tools_is_another_template_to_rows_with_tools(
    base: Path, tmp_path: Path, rank: TrlRank
) -> None:
    facts = read_base(base)
    changed = QWEN3.chat_template.replace("# Tools", "# Functions")
    for rows, is_equal in (([lab.chat("red", "rot")], True), ([ROW], False)):
        data = lab.write_rows(tmp_path / "train.jsonl", rows)
        order = AuditOrder(
            base=facts,
            chat_template=choose_template(facts, QWEN3).template,
            files=[AuditFile(role="train", path=str(data))],
            must_match_template=changed,
        )
        assert (rank.audit(order).template_difference == "") == is_equal


def test_an_evaluation_compares_calls_as_the_model_writes_them(base: Path, tmp_path: Path) -> None:
    from tunefleet_core.evaluation.run import _question

    data = lab.write_rows(tmp_path / "test.jsonl", [ROW | {"messages": ROW["messages"][:2]}, ROW])
    resolved = lab.resolved(base, data=[], spec=lab.train_spec())
    renderer = Renderer(load_tokenizer(resolved.base), resolved.chat_template)
    call, answer = (_question(str(data), row, [], renderer) for row in read_rows(data))
    assert call.right == '<tool_call>\n{"name": "w", "arguments": {"city": "Ulm"}}\n</tool_call>'
    assert "# Tools" in renderer.text(call.prompt)
    assert answer.right == "Warm."
