"""An audit of rows with tools shows what is trained, however long the schemas before it are."""

from __future__ import annotations

import io

from tunefleet.dataset.v1.audit_pb2 import MaskAudit, MaskedRow, MaskedSpan
from tunefleet.dataset.v1.dataset_service_pb2 import CheckRowsResponse
from tunefleet_cli.output import Mode, Output
from tunefleet_cli.output.audit import show_check


def _shown(audit: MaskAudit) -> str:
    out = io.StringIO()
    output = Output(mode=Mode.PLAIN, stdout=out, stderr=io.StringIO(), width=120)
    show_check(output, CheckRowsResponse(audit=audit), source="train.jsonl", model="m", rows=3)
    return out.getvalue()


def _audit(**counts: int) -> MaskAudit:
    spans = [
        MaskedSpan(text="<tools>" + "schema " * 400 + "</tools>Ulm?"),
        MaskedSpan(text='{"name": "w"}<|im_end|>', is_trained=True),
        MaskedSpan(text="21"),
        MaskedSpan(text="Warm.<|im_end|>", is_trained=True),
    ]
    return MaskAudit(
        rows=9, tokens=90, trained_tokens=9, first_rows=[MaskedRow(line=1, spans=spans)], **counts
    )


def test_the_call_is_seen_after_long_schemas_and_the_answer_of_the_tool_is_not_marked() -> None:
    text = " ".join(_shown(_audit(rows_with_tools=1)).split())
    assert "in 1 row" in text
    assert "more … " in text
    assert '⟦{"name": "w"}<|im_end|>⟧21⟦Warm.<|im_end|>⟧' in text


def test_thoughts_that_are_left_out_are_told_with_their_first_line() -> None:
    text = _shown(
        _audit(rows_with_thoughts=4, rows_with_thoughts_left_out=2, first_line_with_thoughts_left_out=7)
    )
    assert "in 4 rows; the template leaves some out of 2, first on line 7" in " ".join(text.split())


def test_joiners_are_shown_and_what_turns_the_line_around_is_not() -> None:
    persian, family = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f467"
    spans = [MaskedSpan(text=f"{persian} {family} a\u202eb\x1b[2J", is_trained=True)]
    shown = _shown(MaskAudit(rows=1, tokens=9, trained_tokens=9, first_rows=[MaskedRow(line=1, spans=spans)]))
    assert f"⟦{persian} {family} a�b�[2J⟧" in shown
