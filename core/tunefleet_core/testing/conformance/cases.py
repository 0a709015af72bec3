"""What turns a coroutine into a test of the kit, and what the kit knows about its tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.profile import Profile, Transport

__all__ = ["Case", "Suite", "case", "case_of", "dishonest_tests", "kit_tests"]

_MARK = "tunefleet_case"
_S = TypeVar("_S", bound="Suite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A test of the kit.

    Attributes:
        needs: Capabilities without which it is skipped, with the profile's reason.
        is_error: Whether it is about something that must be refused or go wrong well.
        transports: Where it makes sense; None: everywhere.
    """

    needs: tuple[Capability.ValueType, ...] = ()
    is_error: bool = False
    transports: tuple[Transport, ...] | None = None


class Suite:
    """Base of every suite: a profile, a bench for each transport, shared by the class."""

    profile: Profile

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test over each transport that the profile allows."""
        if "transport" in metafunc.fixturenames:
            ways = self.profile.transports()
            metafunc.parametrize("transport", ways, ids=[str(way) for way in ways], scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, transport: Transport) -> Iterator[Bench]:
        """A backend that answers."""
        bench = Bench(cls.profile, transport)
        try:
            bench.open()
            yield bench
        finally:
            bench.close()


def case(
    *needs: Capability.ValueType,
    is_error: bool = False,
    transports: tuple[Transport, ...] | None = None,
) -> Callable[[Callable[[_S, Bench], Coroutine[Any, Any, None]]], Callable[[_S, Bench], None]]:
    """Make a coroutine a test. No plugin of pytest is needed: the bench has the event loop."""
    about = Case(needs=needs, is_error=is_error, transports=transports)

    def decorate(function: Callable[[_S, Bench], Coroutine[Any, Any, None]]) -> Callable[[_S, Bench], None]:
        @functools.wraps(function)
        def test(self: _S, bench: Bench) -> None:
            if transports is not None and bench.transport not in transports:
                pytest.skip(f"makes no sense over the transport '{bench.transport}'")
            for capability in needs:
                if not bench.has(capability):
                    pytest.skip(bench.profile.why_not(capability))
            bench.run(function(self, bench))

        setattr(test, _MARK, about)
        return test

    return decorate


def case_of(test: object) -> Case | None:
    """Return what the kit knows about a test; None if it is none of its own."""
    return getattr(test, _MARK, None)


def kit_tests(suite: type) -> dict[str, object]:
    """Return the tests that the kit gives a class, by name."""
    found: dict[str, object] = {}
    for base in reversed(suite.__mro__):
        for name, value in vars(base).items():
            if name.startswith("test_") and _is_of_kit(base):
                found[name] = value
    return found


def dishonest_tests(suite: type) -> list[str]:
    """Return the tests of the kit that a class has deleted or replaced without saying why."""
    return [
        name
        for name, test in kit_tests(suite).items()
        if getattr(suite, name, None) is not test and not _is_excused(getattr(suite, name, None))
    ]


def _is_of_kit(base: type) -> bool:
    return base.__module__.startswith(__name__.rpartition(".")[0])


def _is_excused(test: object) -> bool:
    marks: list[pytest.Mark] = list(getattr(test, "pytestmark", []))
    return any(
        mark.name == "xfail"
        and mark.kwargs.get("strict") is True
        and str(mark.kwargs.get("reason", "")).strip()
        for mark in marks
    )
