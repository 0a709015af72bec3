"""Judge what the audit found: refuse what cannot be trained, tell what should be known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunefleet.backend.v1.inspect_pb2 import AuditOrder, AuditResult, FileAudit
from tunefleet.dataset.v1.audit_pb2 import LengthCount, MaskAudit
from tunefleet.job.v1.event_pb2 import Notice
from tunefleet.job.v1.resolved_pb2 import ChatTemplate
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve.defaults import ROUND_TO, default_length
from tunefleet_core.resolve.notice import info, warning

__all__ = [
    "LengthDecision",
    "combine_masks",
    "decide_length",
    "files_of",
    "mask_notices",
    "require_matching_template",
    "require_trained_tokens",
]

_MOST_DROPPED = 0.05
_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 200


def files_of(order: AuditOrder, audit: AuditResult, role: str) -> list[FileAudit]:
    """Return the audits of the files of one role, in the order of the spec.

    Raises:
        TunefleetError: BACKEND_FAILED if the answer is not about the files that were asked for.
    """
    asked = [(file.role, file.path) for file in order.files]
    answered = [(item.file.role, item.file.path) for item in audit.files]
    if asked != answered:
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"The backend was asked to audit {len(asked)} files and answered about {len(answered)} others.",
            hint="Report it to the makers of the backend.",
        )
    return [item for item in audit.files if item.file.role == role]


def combine_masks(files: Sequence[FileAudit]) -> MaskAudit:
    """Return one audit over several files; percentiles become the largest of the files'."""
    combined = MaskAudit(end_of_turn_trained=all(file.mask.end_of_turn_trained for file in files))
    for file in files:
        mask = file.mask
        combined.rows += mask.rows
        combined.rows_without_loss += mask.rows_without_loss
        combined.rows_over_long += mask.rows_over_long
        combined.tokens += mask.tokens
        combined.trained_tokens += mask.trained_tokens
        combined.rows_with_tools += mask.rows_with_tools
        combined.rows_with_thoughts += mask.rows_with_thoughts
        combined.rows_with_prefix_breaks += mask.rows_with_prefix_breaks
        combined.rows_checked_as_prompts += mask.rows_checked_as_prompts
        combined.rows_with_equal_answers += mask.rows_with_equal_answers
        combined.first_line_with_equal_answers = (
            combined.first_line_with_equal_answers or mask.first_line_with_equal_answers
        )
        combined.rows_labelled_good += mask.rows_labelled_good
        combined.rows_of_text += mask.rows_of_text
        combined.rows_with_thoughts_left_out += mask.rows_with_thoughts_left_out
        combined.first_line_with_thoughts_left_out = (
            combined.first_line_with_thoughts_left_out or mask.first_line_with_thoughts_left_out
        )
        combined.first_rows.extend(mask.first_rows[: _SHOWN_ROWS - len(combined.first_rows)])
        combined.prefix_breaks.extend(mask.prefix_breaks)
        if not combined.references:  # the same conversations in every file
            combined.references.extend(mask.references)
    combined.lengths.extend(_combined_lengths(files))
    percentiles = [file.mask.length_percentiles for file in files if len(file.mask.length_percentiles) == 3]
    combined.length_percentiles.extend(max(lengths) for lengths in zip(*percentiles, strict=True))
    return combined


def _combined_lengths(files: Sequence[FileAudit]) -> Iterator[LengthCount]:
    counts: Counter[int] = Counter()
    for file in files:
        counts.update({item.tokens: item.rows for item in file.mask.lengths})
    for tokens, rows in sorted(counts.items()):
        yield LengthCount(tokens=tokens, rows=rows)


def require_matching_template(audit: AuditResult, template: ChatTemplate) -> None:
    """Refuse a template that renders other ids than the base's own.

    Raises:
        TunefleetError: TEMPLATE_MISMATCH with the first difference.
    """
    if audit.template_difference:
        raise TunefleetError(
            Reason.TEMPLATE_MISMATCH,
            f"The template '{template.source}' renders other tokens than the base's own template: "
            f"{audit.template_difference}",
            hint="Put generation markers into the base's own chat_template.jinja, "
            "or install a newer version of the family's plugin.",
            metadata={"template": template.source, "difference": audit.template_difference},
        )


def require_trained_tokens(mask: MaskAudit, *, loss_on: str) -> None:
    """Refuse rows that could teach nothing.

    Raises:
        TunefleetError: NO_TRAINED_TOKEN, showing what the first row looks like.
    """
    if mask.trained_tokens and mask.rows_without_loss < mask.rows:
        return
    if loss_on == "assistant":
        why = "loss is on what the assistant says, and the template marks nothing as said by it"
    else:
        why = "every row is empty or a single token"
    first = "".join(span.text for span in mask.first_rows[0].spans) if mask.first_rows else ""
    shown = f"; the first row is {first[:_SHOWN_CHARACTERS]!r}" if first else ""
    raise TunefleetError(
        Reason.NO_TRAINED_TOKEN,
        f"None of the {mask.tokens} tokens in {mask.rows} rows would carry loss: {why}{shown}.",
        hint="See that the answers have the role 'assistant' and are not empty; "
        "if they are, set train.loss_on: all.",
        metadata={"rows": str(mask.rows), "tokens": str(mask.tokens)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthDecision:
    """The longest row in tokens, what happens to longer ones, and the reason for each."""

    max_length: int
    max_length_reason: str
    over_long: str
    over_long_reason: str
    dropped_rows: int = 0
    notices: tuple[Notice, ...] = ()


def decide_length(mask: MaskAudit, *, max_length: int, over_long: str, max_positions: int) -> LengthDecision:
    """Decide the longest row and the fate of longer ones.

    Args:
        mask: The audit of the training rows, counted against `max_length` if that was given.
        max_length: What the person gave; 0: nothing.
        over_long: `error`, `drop`, or empty for up to 5 % dropped.
        max_positions: Most positions of the base; 0 if unknown.

    Raises:
        TunefleetError: FIELD_INVALID for a length beyond the base, DATA_INVALID for too
            many rows that are too long.
    """
    _, typical, longest = _lengths(mask)
    if max_length:
        _require_positions(max_length, max_positions)
        decided, why = max_length, ""
    else:
        decided, why = _default_length(typical, longest, over_long=over_long, max_positions=max_positions)
    dropped = mask.rows_over_long if max_length else _dropped_at_default(mask, decided)
    share = dropped / mask.rows if mask.rows else 0.0
    is_refused = dropped and (over_long == "error" or (not over_long and share > _MOST_DROPPED))
    if is_refused or (dropped and dropped >= mask.rows):
        count = str(dropped) if max_length else "Some" if over_long == "error" else "More than 5 %"
        raise _too_long(mask, count, max_length=decided, max_positions=max_positions)
    fate, fate_why = over_long, ""
    if not over_long:
        fate = "drop" if dropped else "error"
        fate_why = f"at most 5 % of the rows, here {share:.1%}" if dropped else "no row is longer"
    return LengthDecision(
        max_length=decided,
        max_length_reason=why,
        over_long=fate,
        over_long_reason=fate_why,
        dropped_rows=dropped,
        notices=tuple(_dropping(dropped, decided, is_exact=bool(max_length))),
    )


def mask_notices(mask: MaskAudit) -> Iterator[Notice]:
    """Yield what the audit of the training rows found worth knowing."""
    if mask.rows_with_equal_answers:
        yield warning(
            f"In {mask.rows_with_equal_answers} of {mask.rows} rows the chosen and the rejected answer are "
            f"the same, first on line {mask.first_line_with_equal_answers}: they teach nothing and are left "
            "out.",
            hint="Remove those rows, or correct one of the answers.",
        )
    without_loss = mask.rows_without_loss - mask.rows_with_equal_answers
    if without_loss > 0:
        yield warning(
            f"{without_loss} of {mask.rows} rows carry no loss and teach nothing.",
            hint="Look at the answers of those rows; empty ones can be removed.",
        )
    if not mask.end_of_turn_trained:
        yield warning(
            "The token that ends an answer carries no loss, so the model may not learn to stop.",
            hint="Put the end-of-turn token inside the template's generation markers.",
        )
    if mask.rows_with_thoughts_left_out:
        yield warning(
            f"The chat template leaves thoughts out of {mask.rows_with_thoughts_left_out} of {mask.rows} "
            f"rows, first on line {mask.first_line_with_thoughts_left_out}: they are not trained.",
            hint="Split such a row, so that each ends with one of its answers.",
        )
    if mask.prefix_breaks:
        yield _prefix_notice(mask)


def _prefix_notice(mask: MaskAudit) -> Notice:
    in_rows = [item for item in mask.prefix_breaks if item.line]
    first = in_rows[0] if in_rows else mask.prefix_breaks[0]
    where = f"on line {first.line}" if first.line else "in a reference conversation"
    rows = f"In {mask.rows_with_prefix_breaks} of {mask.rows_checked_as_prompts} rows that were checked"
    if not in_rows or not mask.rows_checked_as_prompts:
        rows = f"At {len(mask.prefix_breaks)} or more turns"
    hint = "Train one answer per row, or take a template that keeps earlier turns as they were."
    if mask.rows_with_thoughts:
        hint += " If the template has a switch for thinking, serve with it: enable_thinking."
    return warning(
        f"{rows} the prompt that is served is not the start of what is trained; first {where}, turn "
        f"{first.turn}: trained {first.trained!r}, served {first.served!r}.",
        hint=hint,
    )


def _lengths(mask: MaskAudit) -> tuple[int, int, int]:
    """Return the 50th, 95th and 100th percentile of the row lengths in tokens."""
    if len(mask.length_percentiles) != 3:
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            "The backend's audit gave no row lengths.",
            hint="Report it to the makers of the backend.",
        )
    half, typical, longest = mask.length_percentiles
    return half, typical, longest


def _require_positions(max_length: int, max_positions: int) -> None:
    if max_positions and max_length > max_positions:
        raise TunefleetError.field(
            "train.max_length",
            f"must be at most {max_positions}, the positions of the base, got {max_length}",
        )


def _default_length(typical: int, longest: int, *, over_long: str, max_positions: int) -> tuple[int, str]:
    wanted, why = typical, "the 95th percentile of the rows"
    if over_long == "error":  # then no row may be longer
        wanted, why = longest, "the longest row"
    rounded = default_length(wanted)
    if max_positions and rounded > max_positions:
        return max_positions, f"the most the base can take; {why} has {wanted} tokens"
    return rounded, f"{why}, {wanted} tokens, rounded up to a multiple of {ROUND_TO}"


def _dropped_at_default(mask: MaskAudit, max_length: int) -> int:
    """Return an upper bound of the rows longer than a length the audit did not count against."""
    half, typical, longest = _lengths(mask)
    if longest <= max_length:
        return 0
    if typical <= max_length:
        return max(1, int(mask.rows * _MOST_DROPPED))
    return max(1, mask.rows // 2 if half <= max_length else mask.rows - 1)


def _too_long(mask: MaskAudit, count: str, *, max_length: int, max_positions: int) -> TunefleetError:
    longest = _lengths(mask)[2]
    fits = not max_positions or longest <= max_positions
    longer = f"Set train.max_length: {longest}, or shorten" if fits else "Shorten"
    return TunefleetError(
        Reason.DATA_INVALID,
        f"{count} of {mask.rows} rows are longer than {max_length} tokens; the longest has {longest}.",
        hint=f"{longer} the rows, or leave them out with train.over_long: drop",
        metadata={"rows": str(mask.rows), "longest": str(longest), "max_length": str(max_length)},
    )


def _dropping(dropped: int, max_length: int, *, is_exact: bool) -> Iterator[Notice]:
    if dropped:
        count = f"{dropped}" if is_exact else f"Up to {dropped}"
        yield info(
            f"{count} training rows longer than {max_length} tokens are left out.",
            hint="Raise train.max_length to keep them.",
        )
