"""Tuning teaches content: the tickets task, three seeds, against the base and against examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_asyncio
from local_fleet import BASE, TICKETS, LocalFleet

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

_GAIN = 0.4


async def exact_match(fleet: LocalFleet, model: str | Path, *options: str | Path) -> float:
    """Score a model on the 100 tickets that training never reads."""
    ended = await fleet.done("eval", model, TICKETS / "test.jsonl", *options)
    scores = ended.document("job.v1.Job")["result"]["scores"]
    (value,) = (score.get("value", 0.0) for score in scores if score["metric"] == "exact_match")
    return float(value)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def untrained(fleet: LocalFleet) -> dict[str, float]:
    """Return the scores of the base, asked plainly and with three examples in its prompt."""
    return {
        "base": await exact_match(fleet, BASE),
        "few-shot": await exact_match(fleet, BASE, "--examples", TICKETS / "train.jsonl"),
    }


@pytest.mark.parametrize("seed", [42, 43, 44])
async def test_tuned_beats_base_and_examples(
    fleet: LocalFleet, untrained: dict[str, float], seed: int
) -> None:
    name = f"tickets-{seed}"
    sets = ("--set", f"train.seed={seed}")
    await fleet.done("train", TICKETS / "job.yaml", "--id", name, *sets, "--follow")
    tuned = await exact_match(fleet, f"models/{name}")
    print(f"seed {seed}: tuned {tuned:.2f}, {untrained}")
    assert tuned >= untrained["base"] + _GAIN
    assert tuned >= untrained["few-shot"] + _GAIN
