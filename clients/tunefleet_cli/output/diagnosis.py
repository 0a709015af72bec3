"""How a diagnosis looks: the case, what was looked at in its order, the next step."""

from __future__ import annotations

from rich.text import Text

from tunefleet.job.v1.diagnosis_pb2 import CheckOutcome, Diagnosis, DiagnosisCase
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.table import Column, Table
from tunefleet_cli.output.theme import state_text

__all__ = ["case_name", "show_diagnosis"]

_OUTCOMES = {
    CheckOutcome.CHECK_OUTCOME_PASSED: ("OK", "passed"),
    CheckOutcome.CHECK_OUTCOME_FAILED: ("WARNING", "begin here"),
    CheckOutcome.CHECK_OUTCOME_UNKNOWN: ("INFO", "unknown"),
}
_WELL = (DiagnosisCase.DIAGNOSIS_CASE_HEALTHY,)
_OPEN = (DiagnosisCase.DIAGNOSIS_CASE_TOO_EARLY, DiagnosisCase.DIAGNOSIS_CASE_UNSPECIFIED)


def case_name(case: DiagnosisCase.ValueType) -> str:
    """Return a case as people say it, such as `over-fitting`."""
    return DiagnosisCase.Name(case).removeprefix("DIAGNOSIS_CASE_").lower().replace("_", "-")


def show_diagnosis(output: Output, diagnosis: Diagnosis) -> None:
    """Print a diagnosis."""
    if output.is_json:
        output.message(diagnosis)
        return
    name = case_name(diagnosis.case)
    state = "OK" if diagnosis.case in _WELL else "INFO" if diagnosis.case in _OPEN else "WARNING"
    shown = state_text(state, label=name) if output.is_human else Text(name)
    output.facts([("case", shown), ("means", diagnosis.summary), ("field", diagnosis.field)])
    output.heading("What was looked at, in this order")
    columns = [
        Column(title="CHECK", style="accent"),
        Column(title="OUTCOME"),
        Column(title="EVIDENCE", wraps=True),
    ]
    rows = [
        [check.name.replace("_", " "), _outcome(output, check.outcome), check.evidence]
        for check in diagnosis.checks
    ]
    output.table(Table(columns=columns, rows=rows))
    output.gap()
    output.note(f"Next step: {diagnosis.next_step}")


def _outcome(output: Output, outcome: CheckOutcome.ValueType) -> Text:
    state, word = _OUTCOMES.get(outcome, ("INFO", "unknown"))
    return state_text(state, label=word) if output.is_human else Text(word)
