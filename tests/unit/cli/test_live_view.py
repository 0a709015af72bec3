"""The live view: the model behind it, and the screen at several sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import samples
from rich.live import Live

from tunefleet.job.v1.event_pb2 import (
    AttemptEnded,
    AttemptOutcome,
    AttemptStarted,
    BestCheckpoint,
    Gap,
    JobEvent,
    LogLines,
    Metrics,
    Notice,
    PhaseChanged,
    Preflight,
    RunPhase,
    Sample,
    StateChanged,
    StoppedEarly,
)
from tunefleet.job.v1.state_pb2 import CheckpointRef, JobState
from tunefleet_cli.output.chart import bar, curve, interval, sparkline
from tunefleet_cli.output.live import RunScreen
from tunefleet_cli.run_progress import RunProgress
from tunefleet_client import JobChange


def gathered(events: Iterable[JobEvent], *, state: JobState.ValueType | None = None) -> RunProgress:
    job = samples.jobs()[0]
    job.ClearField("progress")
    if state is not None:
        job.state = state
    progress = RunProgress()
    progress.apply(JobChange(snapshot=job))
    for event in events:
        progress.apply(JobChange(event=event))
    return progress


def step(number: int, *, total: int = 300, seconds: float = 0.5) -> JobEvent:
    metrics = Metrics(
        step=number,
        total_steps=total,
        epoch=number / 100,
        loss=0.25 + 2 * math.exp(-number / 55),
        learning_rate=2e-4 * (1 - number / total),
        tokens_per_second=12_000,
        peak_memory_bytes=1_610_612_736,
        validation_loss=1.0 / number if number % 30 == 0 else None,
    )
    event = JobEvent(attempt=1, metrics=metrics)
    event.create_time.FromMicroseconds(int(number * seconds * 1e6))
    return event


def running() -> RunProgress:
    return gathered(
        [
            JobEvent(attempt=1, attempt_started=AttemptStarted(service="services/laptop-trainer")),
            JobEvent(attempt=1, phase_changed=PhaseChanged(phase=RunPhase.RUN_PHASE_WORKING)),
            JobEvent(attempt=1, notice=Notice(severity="warning", text="4 rows are dropped.")),
            *(step(number) for number in range(1, 121)),
            JobEvent(attempt=1, log_lines=LogLines(lines=[f"line {n} \x1b[2J tab\t" for n in range(20)])),
        ]
    )


def eventful() -> RunProgress:
    """A second attempt with a preflight and samples, whose coordinator is away."""
    lost = AttemptEnded(outcome=AttemptOutcome.ATTEMPT_OUTCOME_LOST)
    lost.error.message = "Its service was silent for longer than the lease."
    tried = Preflight(
        longest_row_tokens=512,
        peak_memory_bytes=3_328_599_654,
        step_seconds=1.24,
        save_seconds=2.3,
        checkpoint_bytes=83_886_080,
    )
    best = BestCheckpoint(step=90, metric="validation_loss", value=0.4271)
    phases = ("STARTING", "LOADING", "PREFLIGHT", "WORKING")
    progress = gathered(
        [
            JobEvent(attempt=1, attempt_ended=lost),
            JobEvent(attempt=2, attempt_started=AttemptStarted(service="services/laptop-trainer")),
            *(
                JobEvent(attempt=2, phase_changed=PhaseChanged(phase=RunPhase.Value(f"RUN_PHASE_{name}")))
                for name in phases
            ),
            JobEvent(attempt=2, preflight=tried),
            *(step(number) for number in range(1, 121)),
            JobEvent(attempt=2, sample=Sample(step=60, prompt="The printer is jammed.", answer="facil")),
            JobEvent(
                attempt=2,
                sample=Sample(step=120, prompt="The printer\x1b[2J is jammed.", answer='{"team": 1}\n'),
            ),
            JobEvent(attempt=2, log_lines=LogLines(lines=["saved checkpoint-100"])),
            JobEvent(attempt=2, best_checkpoint=best),
            JobEvent(attempt=2, stopped_early=StoppedEarly(step=120, best=best, patience=3)),
        ]
    )
    progress.away_seconds = 12.0
    return progress


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (120, 40)])
def test_what_happened_to_a_run_is_told_at_every_size(
    width: int, height: int, printed, golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", str(height))
    files = printed(width=width)
    files.output.show(RunScreen(eventful()))
    text = files.stdout.text()
    assert len(text.splitlines()) <= height
    assert max(len(line) for line in text.splitlines()) <= width
    assert "coordinator has been away for 12s" in text
    assert "attempt 1 LOST" in text
    golden(f"live_eventful.{width}x{height}.txt", text)


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (JobState.JOB_STATE_PAUSING, "Saving its exact state"),
        (JobState.JOB_STATE_PAUSED, "tunefleet jobs resume tickets-to-json-ab12"),
        (JobState.JOB_STATE_WAITING_RETRY, "tunefleet jobs retry tickets-to-json-ab12"),
    ],
)
def test_a_job_that_stands_still_says_why(state: JobState.ValueType, what: str, printed) -> None:
    files = printed(width=80)
    files.output.show(RunScreen(gathered([step(1)], state=state)))
    assert what in files.stdout.text()


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (120, 40)])
def test_the_screen_fits_its_terminal(
    width: int, height: int, printed, golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", str(height))
    files = printed(width=width)
    files.output.show(RunScreen(running()))
    text = files.stdout.text()
    assert len(text.splitlines()) <= height
    assert max(len(line) for line in text.splitlines()) <= width
    golden(f"live.{width}x{height}.txt", text)


@pytest.mark.parametrize("width", [20, 40, 200])
@pytest.mark.parametrize("height", [5, 10, 80])
@pytest.mark.parametrize("progress", [RunProgress(), gathered([]), running()])
def test_no_size_and_no_moment_breaks_the_screen(
    progress: RunProgress, width: int, height: int, printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", str(height))
    files = printed(width=width)
    with Live(RunScreen(progress), console=files.output.console, auto_refresh=False) as live:
        live.refresh()


def test_log_lines_cannot_move_the_cursor(printed) -> None:
    files = printed()
    files.output.show(RunScreen(running()))
    assert "\x1b[2J" not in files.stdout.getvalue()
    assert "line 19" in files.stdout.text()


def test_time_left_is_the_pace_of_the_latest_reports() -> None:
    progress = gathered([step(number, seconds=2.0) for number in range(1, 101)])
    assert progress.eta_seconds == pytest.approx(400)
    assert progress.seconds_per_step == pytest.approx(2.0)


def test_there_is_no_time_left_to_tell_before_two_reports_or_after_the_end() -> None:
    assert gathered([]).eta_seconds is None
    assert gathered([step(1)]).eta_seconds is None
    assert gathered([step(1), step(1)]).eta_seconds is None
    ended = JobEvent(state_changed=StateChanged(to=JobState.JOB_STATE_SUCCEEDED))
    assert gathered([step(1), step(2), ended]).eta_seconds is None


def test_a_new_attempt_forgets_what_came_after_its_checkpoint() -> None:
    again = AttemptStarted(service="services/other", resume_from=CheckpointRef(step=40))
    progress = gathered(
        [*(step(number) for number in range(1, 61)), JobEvent(attempt=2, attempt_started=again)]
    )
    assert [int(at) for at, _ in progress.losses] == list(range(1, 41))
    assert (progress.attempt, progress.service, progress.metrics.step) == (2, "services/other", 40)
    assert progress.eta_seconds is None
    assert RunProgress().losses == []


def test_lost_events_are_shown(printed) -> None:
    files = printed()
    files.output.show(RunScreen(gathered([JobEvent(gap=Gap(dropped=1_234))])))
    assert "1,234 events were lost" in files.stdout.text()


def test_a_failed_job_says_why(printed) -> None:
    progress = gathered([step(1)], state=JobState.JOB_STATE_FAILED)
    progress.job.error.message = "The process ran out of memory."
    files = printed()
    files.output.show(RunScreen(progress))
    assert "✗ The process ran out of memory." in files.stdout.text()
    assert "Ctrl-C" not in files.stdout.text()


def test_charts_take_any_numbers() -> None:
    assert sparkline([], width=8) == ""
    assert sparkline([1, math.nan, math.inf], width=8) == "▁"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], width=8) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(range(1000), width=8)) == 8
    assert sparkline([11.9, 12.0], width=8, from_zero=True) == "██"
    assert curve([], width=4, height=2, x_end=10) == ["    ", "    "]
    assert curve([(0, math.nan)], width=2, height=1, x_end=0) == ["  "]
    rows = curve([(0, 3.0), (10, 1.0)], width=5, height=3, x_end=10)
    assert [len(row) for row in rows] == [5, 5, 5]
    assert rows[0][0] != " "
    assert rows[2][4] != " "
    assert rows[0][4] == rows[2][0] == " "
    assert bar(2.0, width=3) == "███"
    assert bar(0.5, width=1) == "▌"
    assert interval(0.0, 0.5, 1.0, width=5) == "├─●─┤"
    assert interval(1.0, 1.0, 1.0, width=3) == "··●"
