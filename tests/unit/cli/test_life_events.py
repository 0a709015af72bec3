"""What happens to a run beside its steps, in lines and on the screen."""

from __future__ import annotations

import math

import pytest

from tunefleet.job.v1.event_pb2 import (
    BestCheckpoint,
    ExpertCollapse,
    Forgetting,
    JobEvent,
    LossSpike,
    Metrics,
    Rollback,
    RowPlace,
    StoppedEarly,
)
from tunefleet_cli.output.events import event_lines
from tunefleet_cli.output.remarks import remarks
from tunefleet_cli.run_progress import RunProgress
from tunefleet_client import JobChange

BEST = BestCheckpoint(step=1_040, metric="validation_loss", value=0.3127)
ROLLBACK = Rollback(step=10, loss=math.nan, to_step=8, learning_rate=5e-3, rollbacks=1, most=2)
SPIKE = LossSpike(step=121, loss=5.3, usual=0.02)
SPIKE.rows.extend(
    [
        RowPlace(path="/data/train.jsonl", line=123),
        RowPlace(path="/data/train.jsonl", line=7),
        RowPlace(path="/data/more.jsonl", line=1),
    ]
)


def progress_after(*events: JobEvent) -> RunProgress:
    progress = RunProgress()
    for event in events:
        progress.apply(JobChange(event=event))
    return progress


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (JobEvent(best_checkpoint=BEST), "best step 1,040, validation loss 0.3127"),
        (
            JobEvent(stopped_early=StoppedEarly(step=1_100, best=BEST, patience=3)),
            "stopped early at step 1,100: "
            "3 validations were no better than step 1,040, validation loss 0.3127",
        ),
        (
            JobEvent(rollback=ROLLBACK),
            "rollback 1 of 2: lost at step 10 (loss nan), on from step 8 at the rate 5e-3",
        ),
        (
            JobEvent(loss_spike=SPIKE),
            "spike at step 121: loss 5.3000, usually 0.0200; its rows train.jsonl:123,7; more.jsonl:1",
        ),
        (
            JobEvent(loss_spike=LossSpike(step=3, loss=9, usual=1)),
            "spike at step 3: loss 9.0000, usually 1.0000",
        ),
        (
            JobEvent(expert_collapse=ExpertCollapse(step=21, load=0.97, even=0.25)),
            "experts at step 21: one expert of a layer gets 97% of the tokens, an even share is 25%",
        ),
        (
            JobEvent(forgetting=Forgetting(step=40, before=0.71, now=0.66, standard_error=0.012, rows=200)),
            "forgetting at step 40: 5.0 points lost on 200 general rows (± 1.2); "
            "mix 10 % general rows into train.data.train",
        ),
        (JobEvent(metrics=Metrics(step=1, total_steps=4, mfu=0.413)), "step 1/4 25 %  MFU 41%"),
    ],
)
def test_each_is_one_line(event: JobEvent, line: str) -> None:
    assert event_lines(event, progress_after(event)) == [line]


def test_what_came_after_the_state_it_goes_on_from_did_not_happen() -> None:
    steps = [JobEvent(metrics=Metrics(step=step, total_steps=20, loss=step)) for step in range(1, 11)]
    early, late = BestCheckpoint(step=6), BestCheckpoint(step=9)
    progress = progress_after(*steps, JobEvent(best_checkpoint=early), JobEvent(rollback=ROLLBACK))
    assert [step for step, _ in progress.losses] == list(range(1, 9))
    assert progress.metrics.step == 8
    assert progress.best is not None
    assert progress_after(JobEvent(best_checkpoint=late), JobEvent(rollback=ROLLBACK)).best is None


@pytest.mark.parametrize("width", [60, 80, 120])
def test_each_is_a_row_of_the_screen_that_fits(width: int) -> None:
    progress = progress_after(JobEvent(rollback=ROLLBACK), JobEvent(loss_spike=SPIKE))
    rows = [row.plain for row in remarks(progress, width=width)]
    assert any("rollback 1 of 2" in row for row in rows)
    assert any("spike at step 121" in row for row in rows)
    assert all(len(row) <= width for row in rows)
