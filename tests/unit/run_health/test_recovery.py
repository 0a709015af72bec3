from __future__ import annotations

import pytest

from tunefleet_core.errors import Reason
from tunefleet_core.lifecycle.attempts import PERMANENT_REASONS
from tunefleet_core.run_health import Recovery, last_good_step, training_diverged


@pytest.mark.parametrize(
    ("diverged_at", "saved", "step"),
    [
        (11, (4, 8), 8),
        (10, (4, 9), 4),  # the loss of step 10 is that of the weights of step 9
        (10, (4, 8), 8),
        (3, (), 0),
        (2, (1,), 0),
        (5, (8, 2), 2),
    ],
)
def test_a_state_is_good_once_the_step_after_it_was(
    diverged_at: int, saved: tuple[int, ...], step: int
) -> None:
    assert last_good_step(diverged_at, saved) == step


def test_every_rollback_halves_the_rate_and_the_first_clips() -> None:
    assert [Recovery(rollbacks=count).rate_scale for count in range(3)] == [1.0, 0.5, 0.25]
    assert Recovery().max_grad_norm(10.0) == 10.0
    assert Recovery().max_grad_norm(0.0) == 0.0
    assert Recovery(rollbacks=1).max_grad_norm(10.0) == 1.0
    assert Recovery(rollbacks=1).max_grad_norm(0.3) == 0.3
    assert Recovery(rollbacks=1).max_grad_norm(0.0) == 1.0


def test_giving_up_is_the_users_error_and_names_the_rate_to_try() -> None:
    error = training_diverged(7, float("nan"), rollbacks=2, learning_rate=1e-3)
    assert error.reason is Reason.TRAINING_DIVERGED
    assert error.reason in PERMANENT_REASONS, "the same work would diverge again"
    assert "step 7 is nan" in error.message
    assert "rolled back 2 times" in error.message
    assert "train.optim.learning_rate to 0.0002" in error.hint
