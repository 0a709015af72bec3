"""The spool keeps events in order over crashes, gives back what was handed over, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunefleet.job.v1.event_pb2 import JobEvent, LogLines, Metrics, Notice, PhaseChanged, RunPhase
from tunefleet_core.worker.spool import EventSpool, SpoolTail, read_spool, release_spool


def _numbers(step: int) -> JobEvent:
    return JobEvent(attempt=1, metrics=Metrics(step=step, loss=1 / step))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.spool"


def _sequences(path: Path, after: int = 0) -> list[int]:
    return [event.source_sequence for event in read_spool(path, after)]


def test_events_are_read_in_order_over_many_files_from_any_point(path: Path) -> None:
    spool = EventSpool(path, limit_bytes=32_000)
    tail = SpoolTail(path, 0)
    seen: list[int] = []
    for step in range(1, 501):
        assert spool.append(_numbers(step))
        if step % 7 == 0:
            seen += [event.source_sequence for event in tail.read(5)]
    while batch := tail.read(50):
        seen += [event.source_sequence for event in batch]
    spool.close()

    assert len(list(path.parent.iterdir())) > 3
    assert seen == list(range(1, 501))
    for after in (0, 1, 99, 100, 101, 499, 500):
        assert _sequences(path, after) == list(range(after + 1, 501))
        assert [event.source_sequence for event in SpoolTail(path, after).read(1000)] == list(
            range(after + 1, 501)
        )


def test_a_spool_is_opened_again_where_it_ended_also_after_a_cut(path: Path) -> None:
    spool = EventSpool(path, limit_bytes=32_000)
    for step in range(1, 201):
        spool.append(_numbers(step))
    spool.close()
    newest = sorted(path.parent.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-3])

    again = EventSpool(path, limit_bytes=32_000)
    assert again.last_source_sequence == 199
    again.append(_numbers(1))
    again.close()
    assert _sequences(path) == list(range(1, 201))


def test_what_was_handed_over_is_given_back_and_nothing_else(path: Path) -> None:
    spool = EventSpool(path, limit_bytes=32_000)
    for step in range(1, 501):
        spool.append(_numbers(step))
    release_spool(path, 250)
    left = _sequences(path)
    assert 1 < left[0] <= 251
    assert left == list(range(left[0], 501))
    assert [event.source_sequence for event in SpoolTail(path, 0).read(1000)] == left
    release_spool(path, 500)
    spool.append(_numbers(1))
    spool.close()
    assert _sequences(path)[-1] == 501
    assert EventSpool(path).last_source_sequence == 501


def test_a_full_spool_leaves_out_numbers_and_lines_and_says_how_many(path: Path) -> None:
    spool = EventSpool(path, limit_bytes=8_000)
    kept = 0
    for step in range(1, 1001):
        kept += spool.append(_numbers(step))
    assert 100 < kept < 500
    assert not spool.append(JobEvent(log_lines=LogLines(lines=["a"])))
    assert spool.append(JobEvent(phase_changed=PhaseChanged(phase=RunPhase.RUN_PHASE_SAVING)))
    events = list(read_spool(path))
    assert [event.WhichOneof("payload") for event in events[-2:]] == ["gap", "phase_changed"]
    assert events[-2].gap.dropped == 1000 - kept + 1
    assert [event.source_sequence for event in events] == list(range(1, len(events) + 1))
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 9_000
    spool.close()


def test_a_spool_that_was_full_goes_on_once_the_coordinator_has_some(path: Path) -> None:
    spool = EventSpool(path, limit_bytes=8_000)
    step = 0
    while spool.append(_numbers(step := step + 1)):
        pass
    release_spool(path, spool.last_source_sequence)
    assert spool.append(_numbers(step))
    kinds = [str(event.WhichOneof("payload")) for event in read_spool(path)]
    assert kinds[-2:] == ["gap", "metrics"]
    while spool.append(_numbers(1)):
        pass
    spool.append(JobEvent(notice=Notice(text="kept")))
    assert not spool.append(_numbers(1))
    spool.close()
    assert list(read_spool(path))[-1].gap.dropped == 1, "told at the end at the latest"
