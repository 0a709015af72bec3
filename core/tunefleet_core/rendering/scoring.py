"""The rewards of a job: ours and those of the plugins of this environment, and the fields they need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunefleet_core.errors import FieldViolation, Reason, TunefleetError
from tunefleet_core.plugins import load_plugins
from tunefleet_core.rendering.answered import AnsweredRow
from tunefleet_core.rewards import NamedScorer, make_scorers, missing_field

__all__ = ["require_fields", "scorers_of"]


def scorers_of(method: str, asked: Sequence[Any]) -> list[NamedScorer]:
    """Return the scorers that a job asks for; plugins are looked for only if it asks for any.

    Raises:
        TunefleetError: FIELD_INVALID for a reward that this environment does not have, or
            options that do not fit.
    """
    if not asked:
        return []
    return make_scorers(asked, load_plugins().rewards(), field=f"train.method.{method}.rewards")


def require_fields(path: str, row: AnsweredRow, scorers: Sequence[NamedScorer]) -> None:
    """Refuse a row that lacks what a reward looks at.

    Raises:
        TunefleetError: DATA_INVALID naming line and field.
    """
    missing = missing_field(scorers, row.answers[0].fields or {})
    if missing is None:
        return
    reward, field = missing
    raise TunefleetError(
        Reason.DATA_INVALID,
        f"{Path(path).name}:{row.line}: {field}: is missing; the reward '{reward}' looks at it.",
        hint=f"Add '{field}' to line {row.line} of {path}, or name another field in the reward's options.",
        metadata={"path": path, "line": str(row.line), "field": field},
        violations=(FieldViolation(field=field, description=f"is needed by the reward '{reward}'"),),
    )
