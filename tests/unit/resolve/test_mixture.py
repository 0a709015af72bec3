"""Several sources at submit: counted for the steps, in the resolved spec, and told."""

from __future__ import annotations

from resolve_lab import mask, resolve, texts, train_spec

from tunefleet_core.resolve import Resolution


def test_what_an_epoch_takes_of_each_source_is_counted_and_told() -> None:
    spec = train_spec(validation=False)
    second = spec.train.data.train.add(source="/rare.jsonl")
    second.weight, second.repeats, second.cap = 0.5, 4, 100
    resolution = resolve(spec, mask(rows=320), mask(rows=80))
    assert [item.rows_per_epoch for item in resolution.spec.data] == [320, 100]
    assert [(item.repeats, item.cap) for item in resolution.spec.data] == [(1, 0), (4, 100)]
    assert "320 of 'train.jsonl', which has 320; 100 of 'rare.jsonl', which has 80" in texts(resolution)
    assert steps_of(resolution) == 2 * -(-420 // 16)


def test_a_single_source_that_is_taken_whole_needs_no_word() -> None:
    resolution = resolve(train_spec(validation=False), mask(rows=320))
    assert "An epoch takes" not in texts(resolution)
    assert steps_of(resolution) == 2 * 20


def steps_of(resolution: Resolution) -> int:
    return resolution.spec.estimate.total_steps
