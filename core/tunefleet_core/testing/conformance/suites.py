"""The classes that a plugin's test file inherits from."""

from __future__ import annotations

from tunefleet_core.testing.conformance.cases import Suite, dishonest_tests
from tunefleet_core.testing.conformance.checkpoints import Checkpoint, Pause, SaveOnRequest
from tunefleet_core.testing.conformance.engines import Adapters, ServerLifecycle
from tunefleet_core.testing.conformance.events import Events
from tunefleet_core.testing.conformance.first_minute import FirstMinute, Merge
from tunefleet_core.testing.conformance.generation import Generate
from tunefleet_core.testing.conformance.identity import Identity, Settings
from tunefleet_core.testing.conformance.inspection import Inspect
from tunefleet_core.testing.conformance.isolation import Isolation
from tunefleet_core.testing.conformance.performance import Performance
from tunefleet_core.testing.conformance.refusals import Capabilities, Errors
from tunefleet_core.testing.conformance.runs import (
    Evaluation,
    TrainerCancellation,
    TrainerIdempotency,
    TrainerLifecycle,
)

__all__ = ["BackendConformance", "ServerConformance", "TrainerConformance"]


class _Honest(Suite):
    """The lock: a test of the kit is run, or the file says in the open why not."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "test_no_test_is_deleted_or_replaced" in vars(cls):
            raise TypeError(f"{cls.__name__} replaces the honesty lock of the conformance kit")

    def test_no_test_is_deleted_or_replaced(self) -> None:
        """Replace one only with @pytest.mark.xfail(strict=True, reason="...")."""
        changed = dishonest_tests(type(self))
        assert not changed, f"deleted or replaced without xfail(strict=True, reason=...): {changed}"


class TrainerConformance(
    _Honest,
    Identity,
    Settings,
    TrainerLifecycle,
    TrainerIdempotency,
    TrainerCancellation,
    Checkpoint,
    Pause,
    SaveOnRequest,
    Events,
    FirstMinute,
    Merge,
    Evaluation,
    Inspect,
    Capabilities,
    Errors,
    Isolation,
    Performance,
):
    """For backends that train.

    Example:
        class TestMine(TrainerConformance):
            profile = Profile(backend="mine")
    """


class ServerConformance(
    _Honest,
    Identity,
    Settings,
    ServerLifecycle,
    Generate,
    Adapters,
    Capabilities,
    Errors,
    Isolation,
    Performance,
):
    """For backends that serve."""


class BackendConformance(TrainerConformance, ServerLifecycle, Generate, Adapters):
    """For backends that do both, and for whoever does not know."""
