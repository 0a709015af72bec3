"""Engines of several processes answer as one process does: split, guessing tokens, or copied."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm_lab import RunningEngine, Trained, running, said, text_of

from tunefleet.deployment.v1.deployment_pb2 import ContractState
from tunefleet.type.v1.engine_pb2 import Speculation

pytestmark = pytest.mark.slow

VERIFIED = ContractState.CONTRACT_STATE_VERIFIED
WORDS = ("red", "one")


def answers(engine: RunningEngine) -> list[str]:
    """Return what both adapters and the base say, greedily, long enough for guesses to be right."""
    models = ("base", "colours", "numbers")
    bodies = [said(model, word, max_tokens=48, ignore_eos=True) for model in models for word in WORDS]
    return [text_of(engine.ask("/v1/chat/completions", body)) for body in bodies]


def test_tensors_in_two_processes_and_guessed_tokens_change_no_answer(
    engine: RunningEngine, trained: Trained, tmp_path: Path
) -> None:
    order = trained.order(tmp_path)
    order.settings.tensor_parallel = 2
    order.settings.speculation.CopyFrom(Speculation(tokens=3))
    with running(order) as split:
        for name, folder in trained.adapters.items():
            split.load(name, folder)
        assert answers(split) == answers(engine)
        for name in trained.adapters:
            found = split.check(name, trained.contract(name))
            assert (found.tokens, found.numbers) == (VERIFIED, VERIFIED), found.summary
            assert found.distance_to_tuned < 0.01 < found.distance_to_base
        lines = split.get("/metrics").splitlines()
    accepted = [line for line in lines if line.startswith("vllm:spec_decode_num_accepted_tokens_total")]
    assert accepted, "it says how many guesses were right"
    assert float(accepted[0].rpartition(" ")[2]) > 0


def test_each_of_two_copies_answers_with_every_adapter(
    engine: RunningEngine, trained: Trained, tmp_path: Path
) -> None:
    order = trained.order(tmp_path)
    order.settings.data_parallel = 2
    with running(order) as copies:
        for name, folder in trained.adapters.items():
            copies.load(name, folder)
        expected = answers(engine)
        # Requests go in turns to the copies: an adapter that only one of them had would be missed.
        for _ in range(2):
            assert answers(copies) == expected
        for name in trained.adapters:
            found = copies.check(name, trained.contract(name))
            assert (found.tokens, found.numbers) == (VERIFIED, VERIFIED), found.summary
