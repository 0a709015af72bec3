"""Distillation at submit: what is filled in for which teacher, and what is refused by field."""

from __future__ import annotations

from pathlib import Path

import pytest
from resolve_lab import FAMILY, audit_of, base_facts, chosen, mask, reasons, train_spec

from tunefleet.job.v1.resolved_pb2 import CompanionModel
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.resolve import Resolution, companions_of, draft_train, finish_train
from tunefleet_core.spec import parse_job_file
from tunefleet_core.spec.rules import find_violations

FIELD = "train.method.distill"
ENDPOINT = f"{FIELD}.teacher.endpoint"


def spec_of(teacher: str) -> JobSpec:
    spec = train_spec()
    named = spec.train.method.distill.teacher
    if teacher == "model":
        named.model.model = "org/big"
    else:
        named.endpoint.url, named.endpoint.model = "http://127.0.0.1:8000/v1", "big"
    return spec


def resolve(spec: JobSpec, *companions: CompanionModel, **found: object) -> Resolution:
    draft = draft_train(spec, base_facts(), FAMILY, companions=companions)
    return finish_train(draft, audit_of(draft, mask(**found)), chosen(methods=("distill",)))


def test_a_teacher_that_is_read_is_resolved_and_planned_for() -> None:
    spec = spec_of("model")
    assert find_violations(spec) == []
    (wanted,) = companions_of(spec.train)
    assert (wanted.field, wanted.model, wanted.scores) == (f"{FIELD}.teacher.model.model", "org/big", False)
    companion = CompanionModel(field=wanted.field, base=base_facts())
    resolution = resolve(spec, companion)
    options = resolution.spec.spec.train.method.distill
    assert (options.on_policy_share, options.beta, options.temperature) == (0.5, 0.5, 1.0)
    assert {f"{FIELD}.beta", f"{FIELD}.on_policy_share"} <= set(reasons(resolution))
    plain = resolve(train_spec()).spec.estimate
    assert resolution.spec.estimate.weights_bytes == plain.weights_bytes + 4 * companion.base.parameter_count
    draft = draft_train(spec, base_facts(), FAMILY, companions=[companion])
    assert draft.audit_order.method == "sft", "rows as for supervised training"
    assert draft.audit_order.companions == [companion]


def test_a_teacher_that_writes_needs_prompts_alone() -> None:
    spec = spec_of("endpoint")
    assert find_violations(spec) == []
    assert companions_of(spec.train) == []
    order = draft_train(spec, base_facts(), FAMILY).audit_order
    assert (order.method, order.endpoint.model) == ("distill", "big")
    resolution = resolve(spec, trained_tokens=0)
    options = resolution.spec.spec.train.method.distill
    assert (options.temperature, options.teacher.endpoint.retries) == (0.0, 4)
    assert not options.HasField("beta")
    assert resolution.spec.spec.train.optim.learning_rate == pytest.approx(2e-4), "as supervised training"


@pytest.mark.parametrize(
    ("teacher", "change", "field"),
    [
        ("model", lambda method: method.ClearField("teacher"), f"{FIELD}.teacher"),
        ("model", lambda method: method.teacher.model.Clear(), f"{FIELD}.teacher.model.model"),
        ("model", lambda method: setattr(method, "beta", 1.5), f"{FIELD}.beta"),
        ("model", lambda method: setattr(method, "on_policy_share", -0.1), f"{FIELD}.on_policy_share"),
        ("endpoint", lambda method: setattr(method, "beta", 0.5), f"{FIELD}.beta"),
        ("endpoint", lambda method: setattr(method.teacher.endpoint, "url", "big"), f"{ENDPOINT}.url"),
        ("endpoint", lambda method: setattr(method.teacher.endpoint, "model", ""), f"{ENDPOINT}.model"),
        (
            "endpoint",
            lambda method: setattr(method.teacher.endpoint, "timeout_seconds", 0),
            f"{FIELD}.teacher.endpoint.timeout_seconds",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_field(teacher: str, change: object, field: str) -> None:
    spec = spec_of(teacher)
    change(spec.train.method.distill)  # type: ignore[operator]
    assert [item.field for item in find_violations(spec)] == [field]


def test_a_teacher_may_be_a_folder_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: small\ntrain:\n  base: {model: org/tiny}\n  data: {train: [{source: rows.jsonl}]}\n"
        "  method: {distill: {teacher: {model: {model: ./big}}}}\n"
    )
    spec = parse_job_file(tmp_path / "job.yaml")
    assert spec.train.method.distill.teacher.model.model == str(tmp_path / "big")
