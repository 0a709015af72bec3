"""How a mask audit looks: what of the rows is trained, and where that is not as wanted.

Trained text is in colour and between brackets, so that it is told apart in a pipe
and without colour too.
"""

from __future__ import annotations

from rich.text import Text

from tunefleet.dataset.v1.audit_pb2 import MaskAudit, MaskedRow, PrefixBreak
from tunefleet.dataset.v1.dataset_service_pb2 import CheckRowsResponse
from tunefleet_cli.output.output import Output, printable
from tunefleet_cli.output.quantities import percent_text
from tunefleet_cli.output.theme import state_text

__all__ = ["show_audit", "show_check"]

_MOST_ROW_LENGTH = 900
_MOST_READ = 200
_MOST_TRAINED = 400
_MOST_BREAKS = 5
_OPEN, _CLOSE = "⟦", "⟧"


def show_check(output: Output, response: CheckRowsResponse, *, source: str, model: str, rows: int) -> None:
    """Print what training on rows would see."""
    if output.is_json:
        output.message(response)
        return
    family = f"{response.family}, from " if response.family else ""
    output.facts(
        [
            ("file", Text(source, style="strong")),
            ("base", model),
            ("template", f"{family}{response.template_source}" if response.template_source else ""),
        ]
    )
    output.heading("What is trained")
    show_audit(output, response.audit, rows=rows)


def show_audit(output: Output, audit: MaskAudit, *, rows: int) -> None:
    """Print an audit and the first rows with their mask, at most `rows`."""
    shown = audit.first_rows[:rows]
    output.facts(
        [
            ("tokens", _trained_share(audit)),
            ("rows", _row_count(audit)),
            ("tools", _in_rows(audit.rows_with_tools)),
            ("thoughts", _thoughts(audit)),
            ("too long", _over_long(audit)),
            ("lengths", _lengths(audit)),
            ("end of turn", _end_of_turn(audit)),
            ("prefix", _prefix(audit)),
            *((f"row {row.line}", _masked(row)) for row in shown),
        ]
    )
    if shown:
        output.note(f"Between {_OPEN} and {_CLOSE}: tokens that carry loss.")
    if audit.prefix_breaks:
        _show_breaks(output, audit)


def _trained_share(audit: MaskAudit) -> Text:
    share = percent_text(audit.trained_tokens, audit.tokens)
    state = "OK" if audit.trained_tokens else "FAILED"
    return state_text(state, label=f"{audit.trained_tokens:,} of {audit.tokens:,} carry loss ({share})")


def _row_count(audit: MaskAudit) -> Text | str:
    text = f"{audit.rows:,}, of which {audit.rows_without_loss:,} train nothing"
    return state_text("WARNING", label=text) if audit.rows_without_loss else text


def _thoughts(audit: MaskAudit) -> Text | str:
    if not audit.rows_with_thoughts_left_out:
        return _in_rows(audit.rows_with_thoughts)
    left_out, line = audit.rows_with_thoughts_left_out, audit.first_line_with_thoughts_left_out
    where = f"the template leaves some out of {left_out:,}, first on line {line}"
    return state_text("WARNING", label=f"{_in_rows(audit.rows_with_thoughts)}; {where}")


def _in_rows(count: int) -> str:
    return "in 1 row" if count == 1 else f"in {count:,} rows" if count else ""


def _over_long(audit: MaskAudit) -> Text | str:
    if not audit.rows_over_long:
        return ""
    share = percent_text(audit.rows_over_long, audit.rows)
    return state_text("WARNING", label=f"{audit.rows_over_long:,} rows ({share}) are over the limit")


def _lengths(audit: MaskAudit) -> str:
    if len(audit.length_percentiles) != 3:
        return ""
    half, most, longest = audit.length_percentiles
    return f"half ≤ {half:,}, 95 % ≤ {most:,}, longest {longest:,} tokens"


def _end_of_turn(audit: MaskAudit) -> Text:
    if audit.end_of_turn_trained:
        return state_text("OK", label="trained: answers learn to end")
    return state_text("WARNING", label="not trained: answers may never end")


def _prefix(audit: MaskAudit) -> Text | str:
    if not audit.prefix_breaks:
        return ""
    if audit.rows_with_prefix_breaks:
        rows = (
            f"{audit.rows_with_prefix_breaks:,} of {audit.rows_checked_as_prompts:,} rows that were checked"
        )
        return state_text("WARNING", label=f"{rows} have turns served otherwise than trained")
    count = len(audit.prefix_breaks)
    turns = "1 turn is" if count == 1 else f"{count:,} turns are"
    return state_text("WARNING", label=f"{turns} served otherwise than trained")


def _masked(row: MaskedRow) -> Text:
    text = Text()
    for span in row.spans:
        visible = _cut(_visible(span.text), _MOST_TRAINED if span.is_trained else _MOST_READ)
        if span.is_trained:
            text.append(_OPEN + visible + _CLOSE, "trained")
        else:
            text.append(visible, "faint")
        if len(text) > _MOST_ROW_LENGTH:
            text.truncate(_MOST_ROW_LENGTH, overflow="ellipsis")
            break
    return text


def _cut(text: str, most: int) -> str:
    """Leave out the middle of a long stretch: schemas of tools would hide what is trained after them."""
    if len(text) <= most:
        return text
    left_out = f" … {len(text) - most:,} more … "
    return text[: most // 2] + left_out + text[-(most - most // 2) :]


def _show_breaks(output: Output, audit: MaskAudit) -> None:
    """Print where what is served leaves what was trained, both sides."""
    output.heading("Served otherwise than trained")
    for item in audit.prefix_breaks[:_MOST_BREAKS]:
        output.facts(
            [
                ("where", _place(item)),
                ("trained", Text(_visible(item.trained), style="good")),
                ("served", Text(_visible(item.served), style="bad")),
            ]
        )
    more = len(audit.prefix_breaks) - _MOST_BREAKS
    if more > 0:
        output.note(f"and {more:,} more")


def _place(item: PrefixBreak) -> str:
    row = f"line {item.line}" if item.line else "a reference conversation"
    return f"{row}, messages[{item.turn}], token {item.token_index}"


def _visible(text: str) -> str:
    """Return text on one line, with nothing in it that could move the cursor."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥")
    return printable(shown)
