"""What a tracker keeps beside the numbers: the spec as one value per field."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tunefleet.backend.v1.tracker_pb2 import TrackedRun

__all__ = ["settings"]


def settings(run: TrackedRun) -> dict[str, str | float | bool]:
    """Return the spec that runs, flat, each field by its path, such as `train.optim.learning_rate`."""
    return dict(_flat(json.loads(run.spec_json), ""))


def _flat(value: object, path: str) -> Iterator[tuple[str, str | float | bool]]:
    match value:
        case dict():
            for name, item in value.items():
                yield from _flat(item, f"{path}.{name}" if path else str(name))
        case list():
            for index, item in enumerate(value):
                yield from _flat(item, f"{path}.{index}")
        case str() | bool() | int() | float():
            yield path, value
        case _:
            return
