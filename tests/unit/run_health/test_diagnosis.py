"""Golden diagnoses of made-up histories; that real runs have such histories is proven beside the backend."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format

from tunefleet.job.v1.diagnosis_pb2 import DiagnosisCase
from tunefleet.job.v1.event_pb2 import (
    ExpertCollapse,
    Forgetting,
    JobEvent,
    LossSpike,
    Metrics,
    Rollback,
    RowPlace,
)
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.errors import Reason, TunefleetError, status_from_error
from tunefleet_core.run_health import RunHistory, diagnose

GOLDEN = Path(__file__).parents[2] / "golden" / "diagnosis"


def spec() -> ResolvedSpec:
    resolved = ResolvedSpec()
    train = resolved.spec.train
    train.adapter.lora.rank = 16
    train.optim.learning_rate, train.optim.epochs = 2e-4, 3.0
    train.checkpoint.best_by = "validation_loss"
    audit = resolved.mask_audit
    audit.rows, audit.tokens, audit.trained_tokens, audit.end_of_turn_trained = 800, 90_000, 20_700, True
    resolved.chat_template.text, resolved.chat_template.source = "{{ messages }}", "family:qwen3"
    return resolved


def steps(
    losses: list[float], validation: list[float] | None = None, *, grad_norm: float = 0.8
) -> Iterator[JobEvent]:
    """Yield the numbers of a run of three passes whose validations are spread evenly over it."""
    total = len(losses)
    every = max(1, total // len(validation)) if validation else 0
    for step, loss in enumerate(losses, 1):
        numbers = {"step": step, "total_steps": total, "epoch": 3 * step / total}
        yield JobEvent(metrics=Metrics(**numbers, loss=loss, grad_norm=grad_norm))
        if validation and step % every == 0 and step // every <= len(validation):
            value = validation[step // every - 1]
            yield JobEvent(metrics=Metrics(**numbers, validation_loss=value))


def falling(begin: float, end: float, *, count: int = 100, pace: float = 12.0) -> list[float]:
    return [end + (begin - end) * math.exp(-step / pace) for step in range(count)]


def gave_up() -> JobEvent:
    event = JobEvent()
    event.attempt_ended.error.CopyFrom(status_from_error(TunefleetError(Reason.TRAINING_DIVERGED, "Lost.")))
    return event


GOOD = [1.1, 0.9, 0.8, 0.75, 0.72, 0.7, 0.69, 0.69, 0.688, 0.688]
SPIKE = LossSpike(step=70, loss=6.25, usual=0.7)
SPIKE.rows.extend(RowPlace(path="/data/train.jsonl", line=line) for line in (17, 4, 230, 99, 8))
HISTORIES: dict[str, list[JobEvent]] = {
    "HEALTHY": [*steps(falling(2.0, 0.65), GOOD)],
    "OVER_FITTING": [*steps(falling(2.0, 0.05), [1.2, 1.0, 0.95, 1.0, 1.1, 1.3, 1.4, 1.5, 1.6, 1.7])],
    "UNDER_FITTING": [*steps([2.0 - 0.009 * step for step in range(100)])],
    "SPIKE": [*steps(falling(2.0, 0.65), GOOD), JobEvent(loss_spike=SPIKE)],
    "DIVERGENCE": [
        *steps(falling(2.0, 0.65)),
        JobEvent(
            rollback=Rollback(step=60, loss=math.nan, to_step=50, learning_rate=1e-4, rollbacks=1, most=1)
        ),
        gave_up(),
    ],
    "OTHER_DISTRIBUTION": [*steps(falling(2.0, 0.65), [2.6, 2.5, 2.4, 2.4, 2.4, 2.4, 2.4, 2.4, 2.4, 2.4])],
    "FORGETTING": [
        *steps(falling(2.0, 0.65), GOOD),
        JobEvent(forgetting=Forgetting(step=40, before=0.71, now=0.66, standard_error=0.012, rows=200)),
    ],
    "EXPERT_COLLAPSE": [
        *steps(falling(2.0, 0.65), GOOD),
        JobEvent(expert_collapse=ExpertCollapse(step=21, load=0.97, even=0.25)),
    ],
    "NO_LEARNING": [*steps([2.0 + 0.01 * (step % 3) for step in range(100)])],
    "TOO_EARLY": [*steps([2.0, 1.9])],
}


@pytest.mark.parametrize("case", sorted(HISTORIES))
def test_each_case_is_told_with_evidence_and_one_next_step(case: str) -> None:
    found = diagnose(RunHistory.of(HISTORIES[case]), spec())
    assert DiagnosisCase.Name(found.case) == f"DIAGNOSIS_CASE_{case}"
    text = json_format.MessageToJson(found, preserving_proto_field_name=True, ensure_ascii=False) + "\n"
    path = GOLDEN / f"{case.lower()}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", sorted(HISTORIES))
def test_checks_come_in_the_order_in_which_a_person_looks(case: str) -> None:
    found = diagnose(RunHistory.of(HISTORIES[case]), spec())
    names = [check.name for check in found.checks]
    assert names == ["data", "template", "adapter", "curves", "learning_rate", "miniature"]
    failed = [check for check in found.checks if check.outcome == 2]
    assert len(failed) == (0 if case in ("HEALTHY", "TOO_EARLY") else 1)
    assert all(check.evidence for check in found.checks)
    assert found.next_step


def test_what_was_undone_by_a_rollback_is_not_held_against_the_run() -> None:
    rollback = Rollback(step=60, loss=9.0, to_step=50, learning_rate=1e-4, rollbacks=1, most=2)
    history = RunHistory.of([*steps(falling(2.0, 0.65)), JobEvent(rollback=rollback)])
    assert history.losses[-1][0] == 50
    assert "holds at 0.0001" in diagnose(history, spec()).checks[4].evidence


def test_rows_without_a_trained_token_come_before_the_rate() -> None:
    resolved = spec()
    resolved.mask_audit.rows_without_loss = 500
    found = diagnose(RunHistory.of(HISTORIES["NO_LEARNING"]), resolved)
    assert found.field == "train.data.train"
    assert "62%" in found.checks[0].evidence


def test_an_adapter_without_gradients_comes_before_the_rate() -> None:
    dead = [*steps([2.0] * 50, grad_norm=0.0)]
    found = diagnose(RunHistory.of(dead), spec())
    assert (found.field, found.checks[2].outcome) == ("train.adapter", 2)


def test_a_tiny_rate_is_to_be_raised_and_not_lowered() -> None:
    resolved = spec()
    resolved.spec.train.optim.learning_rate = 1e-9
    found = diagnose(RunHistory.of(HISTORIES["NO_LEARNING"]), resolved)
    assert "Leave train.optim.learning_rate out" in found.next_step


def test_a_validation_that_parts_only_later_is_over_fitting_not_another_kind_of_rows() -> None:
    late = [1.2, 1.0, 0.95, 1.3, 1.6, 1.9, 2.2, 2.4, 2.6, 2.8]
    found = diagnose(RunHistory.of(steps(falling(2.0, 0.05), late)), spec())
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_OVER_FITTING
