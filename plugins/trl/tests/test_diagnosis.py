"""Each case of `jobs diagnose`, provoked for real by a tiny run, and alarms that are told once.

The base of most runs knows the colours already: what a run takes from it, or cannot, shows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab

from tunefleet.job.v1.diagnosis_pb2 import Diagnosis, DiagnosisCase
from tunefleet.job.v1.event_pb2 import JobEvent
from tunefleet_core.errors import Reason, TunefleetError, status_from_error
from tunefleet_core.run_health import RunHistory, diagnose
from tunefleet_trl.rank import TrlRank

pytestmark = pytest.mark.slow  # a real run for each case; golden diagnoses of made-up ones are quick
WRONG = tuple((word, lab.PAIRS[at - 1][1]) for at, (word, _) in enumerate(lab.PAIRS))


def _run(
    base: Path,
    folder: Path,
    train: Sequence[tuple[str, str]],
    *,
    spec: lab.JobSpec,
    validation: Sequence[tuple[str, str]] = (),
    general: Sequence[tuple[str, str]] = (),
    copies: int = 8,
    model_type: str = "qwen3",
) -> lab.MemoryContext:
    """Train; a run that fails ends in the history as in a fleet."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"train": list(train) * copies, "validation": list(validation), "general": list(general)}
    data: list[tuple[str, Path]] = []
    for role, rows in files.items():
        if rows:
            path = lab.write_rows(folder / f"{role}.jsonl", [lab.chat(*pair) for pair in rows])
            data.append((role, path))
            if role != "train":
                setattr(spec.train.data, role, str(path))
    resolved = lab.resolved(base, model_type=model_type, data=data, spec=spec)
    context = lab.MemoryContext(lab.order(resolved, folder / "work"))
    try:
        TrlRank().run(context)
    except TunefleetError as error:
        ended = JobEvent()
        ended.attempt_ended.error.CopyFrom(status_from_error(error))
        context.history.append(ended)
    return context


def _diagnosis(context: lab.MemoryContext) -> Diagnosis:
    return diagnose(RunHistory.of(context.history), context.order.resolved_spec)


def _spec(steps: int, *, learning_rate: float = 1e-2, every: int = 3, **optim: Any) -> lab.JobSpec:
    spec = lab.train_spec(steps=steps, dropout=0.0, learning_rate=learning_rate, **optim)
    spec.train.validate_every_steps = every
    spec.train.preflight = False
    return spec


def _failed_check(found: Diagnosis) -> str:
    return next((check.name for check in found.checks if check.outcome == 2), "")


def test_healthy(base: Path, tmp_path: Path) -> None:
    context = _run(base, tmp_path, lab.PAIRS, validation=lab.PAIRS, spec=_spec(45))
    found = _diagnosis(context)
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_HEALTHY, found
    assert _failed_check(found) == ""
    assert [check.name for check in found.checks] == [
        "data", "template", "adapter", "curves", "learning_rate", "miniature"
    ]  # fmt: skip


def test_over_fitting(base: Path, tmp_path: Path) -> None:
    context = _run(base, tmp_path, lab.PAIRS, validation=WRONG, spec=_spec(45))
    found = _diagnosis(context)
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_OVER_FITTING, found
    assert _failed_check(found) == "curves"


def test_under_fitting(base: Path, tmp_path: Path) -> None:
    spec = _spec(30, learning_rate=8e-4, schedule="constant")
    found = _diagnosis(_run(base, tmp_path, lab.PAIRS, validation=lab.PAIRS, spec=spec))
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_UNDER_FITTING, found
    assert "epochs" in found.field


def test_no_learning(base: Path, tmp_path: Path) -> None:
    spec = _spec(20, learning_rate=1e-8, schedule="constant")
    found = _diagnosis(_run(base, tmp_path, lab.PAIRS, validation=lab.PAIRS, spec=spec))
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_NO_LEARNING, found
    assert (_failed_check(found), found.field) == ("learning_rate", "train.optim.learning_rate")


def test_divergence(base: Path, tmp_path: Path) -> None:
    spec = _spec(20, learning_rate=1e30, max_grad_norm=1e30)
    spec.train.divergence.max_rollbacks = 1
    context = _run(base, tmp_path, lab.PAIRS, spec=spec)
    found = _diagnosis(context)
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_DIVERGENCE, found
    assert "a fifth" in found.next_step
    assert "given up" in found.checks[4].evidence


def test_spike(base: Path, tmp_path: Path) -> None:
    odd = ("red", "".join(chr(33 + (17 * at) % 90) for at in range(60)))
    rows = list(lab.PAIRS) * 40
    rows.insert(122, odd)
    spec = _spec(41, learning_rate=2e-2)
    spec.train.seed = 3  # the planted row comes late in this order, when the rest is learned
    context = _run(base, tmp_path, rows, copies=1, spec=spec)
    found = _diagnosis(context)
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_SPIKE, found
    assert "train.jsonl:" in found.checks[0].evidence


def test_validation_from_another_distribution(base: Path, tmp_path: Path) -> None:
    draw = random.Random(5)
    other = [
        ("".join(draw.choices("0123456789+-*", k=9)), "".join(draw.choices("XYZ#@%", k=30))) for _ in range(4)
    ]
    spec = _spec(30, learning_rate=2e-2, every=6)
    found = _diagnosis(_run(base, tmp_path, lab.PAIRS, validation=other, spec=spec, copies=16))
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_OTHER_DISTRIBUTION, found
    assert found.field == "train.data.validation"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that knows the colours: trained in full, whole weights."""
    folder = tmp_path_factory.mktemp("learned")
    spec = lab.adapted_spec("full", steps=60, dropout=0.0, learning_rate=3e-3)
    spec.train.preflight = False
    return _run(lab.build_base(folder / "base"), folder, lab.PAIRS, spec=spec).output


def test_forgetting(learned: Path, tmp_path: Path) -> None:
    spec = lab.adapted_spec("full", steps=40, dropout=0.0, learning_rate=3e-3)
    spec.train.preflight = False
    context = _run(learned, tmp_path, WRONG, general=lab.PAIRS, spec=spec)
    (told,) = context.events_of("forgetting")
    assert told.before - told.now > 0.1
    assert told.rows == 4
    scores = [
        item.extra["general/token_accuracy"]
        for item in context.told
        if not item.HasField("loss") and item.extra
    ]
    assert scores[0] == pytest.approx(told.before)
    found = _diagnosis(context)
    assert found.case == DiagnosisCase.DIAGNOSIS_CASE_FORGETTING, found
    assert "10 %" in found.next_step


def test_learning_more_of_the_same_forgets_nothing(learned: Path, tmp_path: Path) -> None:
    spec = lab.adapted_spec("full", steps=10, dropout=0.0, learning_rate=1e-4)
    spec.train.preflight = False
    context = _run(learned, tmp_path, lab.PAIRS, general=lab.PAIRS, spec=spec)
    assert not context.events_of("forgetting")


def _with_collapsed_router(folder: Path) -> Path:
    """Write a base of three experts, two for each token, whose third one is always among them."""
    import torch
    from safetensors.torch import load_file, save_file

    base = lab.build_base(folder, model_type="qwen3_moe", num_experts=3, num_experts_per_tok=2)
    path = base / "model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if name.endswith("mlp.gate.weight"):
            direction = torch.ones_like(weight[0])
            # The first two are each other's opposite, so one is above 0 and one below; the third is 0.
            weights[name] = torch.stack([direction, -direction, torch.zeros_like(direction)])
    save_file(weights, path, metadata={"format": "pt"})
    return base


def test_expert_collapse_is_told_exactly_once(tmp_path: Path) -> None:
    base = _with_collapsed_router(tmp_path / "base")
    spec = _spec(12)
    resumed_from = tmp_path / "run"
    spec.train.checkpoint.every_steps = 8
    context = _run(base, resumed_from, lab.PAIRS, spec=spec, model_type="qwen3_moe")
    (told,) = context.events_of("expert_collapse")
    assert (told.load, told.even) == (pytest.approx(1.0), pytest.approx(2 / 3))
    assert _diagnosis(context).case == DiagnosisCase.DIAGNOSIS_CASE_EXPERT_COLLAPSE
    order = lab.RunOrder()
    order.CopyFrom(context.order)
    order.work_dir = str(tmp_path / "resumed")
    order.resume_from, order.resume_step = str(context.checkpoint_folder(8)), 8
    assert json.loads((context.checkpoint_folder(8) / "decisions.json").read_text())["collapse"]["is_told"]
    resumed = lab.MemoryContext(order)
    TrlRank().run(resumed)
    assert not resumed.events_of("expert_collapse"), "it was told before"


def test_an_even_router_is_no_collapse(tmp_path: Path) -> None:
    base = lab.build_base(tmp_path / "base", model_type="qwen3_moe")
    context = _run(base, tmp_path / "run", lab.PAIRS, spec=_spec(8), model_type="qwen3_moe")
    assert any("expert_load" in item.extra for item in context.told)
    assert not context.events_of("expert_collapse")


def test_a_lost_run_is_the_users_error(base: Path, tmp_path: Path) -> None:
    spec = _spec(5, learning_rate=1e30, max_grad_norm=1e30)
    context = _run(base, tmp_path, lab.PAIRS, spec=spec)
    (ended,) = [event for event in context.history if event.HasField("attempt_ended")]
    assert Reason.TRAINING_DIVERGED.value in str(ended.attempt_ended.error.details)
