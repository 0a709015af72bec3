"""Name what a run suffers from, with evidence and one next step.

Pure: the same history and spec always give the same answer. Checks come in the order in which
a person should look: what was fed in, how it was written, whether the adapter moves at all, the
curves, then a smaller rate, then a run so small that nothing can hide in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tunefleet.job.v1.diagnosis_pb2 import CheckOutcome, Diagnosis, DiagnosisCase, DiagnosisCheck
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.run_health.curves import Curves
from tunefleet_core.run_health.history import RunHistory

__all__ = ["diagnose"]

_PASSED = CheckOutcome.CHECK_OUTCOME_PASSED
_FAILED = CheckOutcome.CHECK_OUTCOME_FAILED
_UNKNOWN = CheckOutcome.CHECK_OUTCOME_UNKNOWN
_ORDER = ("data", "template", "adapter", "curves", "learning_rate", "miniature")
_NO_LOSS_SHARE = 0.2
_SHOWN_ROWS = 4
_RATE = "train.optim.learning_rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a diagnosis looks at."""

    history: RunHistory
    curves: Curves
    spec: ResolvedSpec

    @property
    def rate(self) -> float:
        return self.spec.spec.train.optim.learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """A case, which check it fails, what shows it and what to do."""

    case: DiagnosisCase.ValueType
    summary: str
    check: str = ""
    evidence: str = ""
    next_step: str = ""
    field: str = ""


def diagnose(history: RunHistory, spec: ResolvedSpec) -> Diagnosis:
    """Diagnose a training run.

    Args:
        history: What is known of it, running or ended.
        spec: What ran, with what was found of its rows.
    """
    seen = _Seen(history=history, curves=Curves.of(history), spec=spec)
    found = next(finding for rule in _RULES if (finding := rule(seen)) is not None)
    checks = [_check(name, seen, found) for name in _ORDER]
    return Diagnosis(
        case=found.case, summary=found.summary, checks=checks, next_step=found.next_step, field=found.field
    )


def _check(name: str, seen: _Seen, found: _Finding) -> DiagnosisCheck:
    if name == found.check:
        return DiagnosisCheck(name=name, outcome=_FAILED, evidence=found.evidence)
    outcome, evidence = _EVIDENCE[name](seen)
    return DiagnosisCheck(name=name, outcome=outcome, evidence=evidence)


def _data(seen: _Seen) -> tuple[CheckOutcome.ValueType, str]:
    audit = seen.spec.mask_audit
    if not audit.rows:
        return _UNKNOWN, "The rows were not audited."
    share = audit.trained_tokens / audit.tokens if audit.tokens else 0.0
    return _PASSED, f"{audit.rows:,} rows, {share:.0%} of their tokens carry loss."


def _template(seen: _Seen) -> tuple[CheckOutcome.ValueType, str]:
    audit, template = seen.spec.mask_audit, seen.spec.chat_template
    if not template.text or not audit.rows or audit.rows_of_text == audit.rows:
        return _UNKNOWN, "No chat template was used."
    end = "carries loss" if audit.end_of_turn_trained else "carries no loss"
    return _PASSED, f"The template of {template.source or 'the base'}; the end of an answer {end}."


def _adapter(seen: _Seen) -> tuple[CheckOutcome.ValueType, str]:
    norms = [norm for norm in seen.history.grad_norms if norm > 0]
    if not seen.history.grad_norms:
        return _UNKNOWN, "No gradient norm was told."
    what = "The adapter" if seen.spec.spec.train.HasField("adapter") else "The model"
    if not norms:
        return _UNKNOWN, f"{what} got no gradient."
    return _PASSED, f"{what} gets gradients: a norm of {norms[-1]:.3g} at the end."


def _curves(seen: _Seen) -> tuple[CheckOutcome.ValueType, str]:
    curves = seen.curves
    if curves.says_nothing:
        return _UNKNOWN, f"Only {curves.steps} steps were told."
    text = f"Training loss from {curves.begin:.4g} to {curves.last:.4g}"
    if curves.best_step:
        text += f"; validation at best {curves.best:.4g} at step {curves.best_step}"
        text += f", {curves.validation_end:.4g} now"
    return _PASSED, f"{text}."


def _rate(seen: _Seen) -> tuple[CheckOutcome.ValueType, str]:
    return _UNKNOWN, f"It is {seen.rate:.2g}; a fifth is {seen.rate / 5:.2g}."


def _miniature(seen: _Seen) -> tuple[CheckOutcome.ValueType, str]:
    return _UNKNOWN, "Not tried: tunefleet train FILE --mini."


_EVIDENCE: dict[str, Callable[[_Seen], tuple[CheckOutcome.ValueType, str]]] = {
    "data": _data,
    "template": _template,
    "adapter": _adapter,
    "curves": _curves,
    "learning_rate": _rate,
    "miniature": _miniature,
}


def _diverged(seen: _Seen) -> _Finding | None:
    rollbacks = seen.history.rollbacks
    if not rollbacks and not seen.history.is_lost:
        return None
    where = ", ".join(f"step {item.step}" for item in rollbacks[-_SHOWN_ROWS:])
    held = "and was given up" if seen.history.is_lost else f"and holds at {rollbacks[-1].learning_rate:.2g}"
    times = "once" if len(rollbacks) == 1 else f"{len(rollbacks)} times"
    shown = f"Lost at {where}, rolled back {times} {held}."
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_DIVERGENCE,
        summary="The training was lost: the learning rate is more than this model bears.",
        check="learning_rate",
        evidence=shown if rollbacks else "Lost and given up.",
        next_step=f"Set {_RATE} to {seen.rate / 5:.2g}, a fifth, and train again.",
        field=_RATE,
    )


def _collapsed(seen: _Seen) -> _Finding | None:
    collapse = seen.history.collapse
    if collapse is None:
        return None
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_EXPERT_COLLAPSE,
        summary="One expert gets almost every token; the others learn nothing.",
        check="adapter",
        evidence=f"By step {collapse.step} one expert got {collapse.load:.0%}; even is {collapse.even:.0%}.",
        next_step="Give the base's config.json the router_aux_loss_coef that its family was published with.",
        field="train.base.model",
    )


def _forgotten(seen: _Seen) -> _Finding | None:
    lost = seen.history.forgetting
    if lost is None:
        return None
    points = (lost.before - lost.now) * 100
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_FORGETTING,
        summary="What the model could do before is being lost.",
        check="data",
        evidence=f"{points:.1f} points lost on {lost.rows} general rows by step {lost.step} "
        f"(standard error {lost.standard_error * 100:.1f}).",
        next_step="Mix 10 % general rows into the training rows: one more source in train.data.train.",
        field="train.data.train",
    )


def _spiked(seen: _Seen) -> _Finding | None:
    if not seen.history.spikes:
        return None
    worst = max(seen.history.spikes, key=lambda spike: spike.loss - spike.usual)
    places = [f"{row.path.rsplit('/', 1)[-1]}:{row.line}" for row in worst.rows[:_SHOWN_ROWS]]
    more = f" and {len(worst.rows) - _SHOWN_ROWS} more" if len(worst.rows) > _SHOWN_ROWS else ""
    rows = f"; its rows: {', '.join(places)}{more}" if places else ""
    look = f"Read {places[0]} and the rows beside it" if places else "Read the rows of that step"
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_SPIKE,
        summary=f"{_steps(len(seen.history.spikes))} out; mostly that is a row unlike the others.",
        check="data",
        evidence=f"Step {worst.step} has a loss of {worst.loss:.4g}, usual is {worst.usual:.4g}{rows}.",
        next_step=f"{look}; mend or remove what is unlike the rest.",
        field="train.data.train",
    )


def _steps(count: int) -> str:
    return "One step stands" if count == 1 else f"{count} steps stand"


def _too_early(seen: _Seen) -> _Finding | None:
    if not seen.curves.says_nothing:
        return None
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_TOO_EARLY,
        summary=f"{seen.curves.steps} steps say nothing yet.",
        next_step="Ask again when there are more.",
    )


def _no_learning(seen: _Seen) -> _Finding | None:
    curves = seen.curves
    if not curves.learned_nothing:
        return None
    check, evidence, step, field = next(_why_nothing(seen))
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_NO_LEARNING,
        summary=f"The loss does not fall: {curves.begin:.4g} at first, {curves.last:.4g} at the end.",
        check=check,
        evidence=evidence,
        next_step=step,
        field=field,
    )


def _why_nothing(seen: _Seen) -> Iterator[tuple[str, str, str, str]]:
    """Yield what may keep a run from learning, in the order of the checks."""
    audit, norms = seen.spec.mask_audit, seen.history.grad_norms
    if audit.rows and audit.rows_without_loss > _NO_LOSS_SHARE * audit.rows:
        share = audit.rows_without_loss / audit.rows
        look = "See in colour what would be trained: tunefleet data check FILE --model MODEL"
        yield "data", f"{share:.0%} of the rows have no token that carries loss.", look, "train.data.train"
    if norms and not any(norms):
        give = "Leave train.adapter.lora.targets out, so that the family's own are taken."
        if seen.spec.spec.train.adapter.HasField("prompt_tuning"):
            give = "Train an adapter of the kind lora: adapter: {lora: {}}."
        yield "adapter", "No gradient reached it: its norm was 0 at every step.", give, "train.adapter"
    usual = 1e-4 if seen.spec.spec.train.HasField("adapter") else 1e-6
    if 0 < seen.rate < usual:
        shown = f"{seen.rate:.2g} is so small that nothing moves."
        yield "learning_rate", shown, f"Leave {_RATE} out for the default.", _RATE
    shown = f"At {seen.rate:.2g} it gets nowhere, or the rows say nothing that can be learned."
    yield "learning_rate", shown, f"Set {_RATE} to {seen.rate / 5:.2g}, a fifth, and train again.", _RATE


def _other_distribution(seen: _Seen) -> _Finding | None:
    curves = seen.curves
    if not curves.parted_at_once:
        return None
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_OTHER_DISTRIBUTION,
        summary="The validation rows are of another kind than the training rows.",
        check="data",
        evidence=f"After {curves.first_epoch:.2g} passes, too early to have learned rows by heart, "
        f"validation was at {curves.first_gap:.1f} times the training loss.",
        next_step="Take the validation rows from the same source as the training rows, at random.",
        field="train.data.validation",
    )


def _over_fitted(seen: _Seen) -> _Finding | None:
    curves = seen.curves
    if not curves.validation_has_risen:
        return None
    keeps_best = seen.spec.spec.train.checkpoint.best_by not in ("", "none")
    kept = "; the best state is the result" if keeps_best else ""
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_OVER_FITTING,
        summary=f"It learned its rows by heart after step {curves.best_step}{kept}.",
        check="curves",
        evidence=f"Validation rose from {curves.best:.4g} at step {curves.best_step} to "
        f"{curves.validation_end:.4g}, while training fell to {curves.last:.4g}.",
        next_step="Add rows; if there are none, train fewer epochs with an adapter dropout of 0.1.",
        field="train.data.train",
    )


def _under_fitted(seen: _Seen) -> _Finding | None:
    curves = seen.curves
    if not curves.is_still_falling:
        return None
    epochs = seen.spec.spec.train.optim.epochs
    more = f"Set train.optim.epochs to {epochs * 2:g}" if epochs else "Train twice as many steps"
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_UNDER_FITTING,
        summary="It was still learning when it ended.",
        check="curves",
        evidence=f"The training loss fell from {curves.middle:.4g} in the middle third to {curves.end:.4g} "
        f"in the last one, of {curves.begin:.4g} at first.",
        next_step=f"{more}; what it learned so far holds.",
        field="train.optim.epochs",
    )


def _healthy(seen: _Seen) -> _Finding:
    return _Finding(
        case=DiagnosisCase.DIAGNOSIS_CASE_HEALTHY,
        summary="It learns, and nothing stands out.",
        next_step="Score it on rows it has never seen: tunefleet eval MODEL FILE",
    )


_RULES: tuple[Callable[[_Seen], _Finding | None], ...] = (
    _diverged,
    _collapsed,
    _forgotten,
    _spiked,
    _too_early,
    _no_learning,
    _other_distribution,
    _over_fitted,
    _under_fitted,
    _healthy,
)
"""What was seen while it ran comes before what the curves say afterwards."""
