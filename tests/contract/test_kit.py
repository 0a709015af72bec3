"""The kit itself: it is honest, half of it is about errors, and its report says what happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet_core.catalog.base import read_base
from tunefleet_core.plugins.conformance_report import Report
from tunefleet_core.testing.conformance import (
    KIT_VERSION,
    BackendConformance,
    Profile,
    ServerConformance,
    TrainerConformance,
    Transport,
)
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.cases import case_of, dishonest_tests, kit_tests
from tunefleet_core.testing.conformance.orders import REQUESTS
from tunefleet_core.testing.conformance.profile import capability_word
from tunefleet_core.testing.conformance.tiny_base import write_adapter, write_base

SUITES = (TrainerConformance, ServerConformance, BackendConformance)


class Honest(TrainerConformance):
    profile = Profile(backend="echo")

    @pytest.mark.xfail(strict=True, reason="resumes on another device only, see the tracker")
    def test_a_paused_run_goes_on_exactly(self, bench: Bench) -> None:
        super().test_a_paused_run_goes_on_exactly(bench)

    def test_one_of_its_own(self) -> None: ...


class Deleting(TrainerConformance):
    profile = Profile(backend="echo")
    test_an_unknown_run_is_not_found = None


class Softening(TrainerConformance):
    profile = Profile(backend="echo")

    def test_an_unknown_run_is_not_found(self, bench: Bench) -> None: ...

    @pytest.mark.xfail(reason="sometimes")
    def test_its_manifest_is_complete(self, bench: Bench) -> None: ...

    @pytest.mark.xfail(strict=True)
    def test_two_runs_do_not_mix(self, bench: Bench) -> None: ...

    @pytest.mark.skip(reason="too slow")
    def test_it_says_the_same_again(self, bench: Bench) -> None: ...


def test_a_test_may_only_be_replaced_in_the_open() -> None:
    assert dishonest_tests(Honest) == []
    assert dishonest_tests(Deleting) == ["test_an_unknown_run_is_not_found"]
    assert set(dishonest_tests(Softening)) == {
        "test_an_unknown_run_is_not_found",
        "test_its_manifest_is_complete",
        "test_two_runs_do_not_mix",
        "test_it_says_the_same_again",
    }
    Honest().test_no_test_is_deleted_or_replaced()
    with pytest.raises(AssertionError, match="test_an_unknown_run_is_not_found"):
        Deleting().test_no_test_is_deleted_or_replaced()


def test_the_lock_itself_cannot_be_replaced() -> None:
    with pytest.raises(TypeError, match="honesty lock"):
        type("Sly", (TrainerConformance,), {"test_no_test_is_deleted_or_replaced": lambda self: None})


@pytest.mark.parametrize("suite", SUITES)
def test_at_least_half_of_the_cases_are_errors(suite: type) -> None:
    cases = [case for test in kit_tests(suite).values() if (case := case_of(test)) is not None]
    assert len(cases) > 40
    assert sum(case.is_error for case in cases) >= len(cases) / 2


def test_every_capability_that_can_be_asked_for_is_asked_for() -> None:
    # Nothing asks for these by itself: they show in how a run, an engine or a first minute goes.
    by_behaviour = {
        Capability.CAPABILITY_ADAPTER_TEMPLATES,
        Capability.CAPABILITY_CHECKPOINT_RESUME,
        Capability.CAPABILITY_CONTRACT_CHECK,
        Capability.CAPABILITY_PREFLIGHT,
        Capability.CAPABILITY_UNSPECIFIED,
    }
    asked = {f"test_capability_{capability_word(item).lower()}" for item in Capability.values()} - {
        f"test_capability_{capability_word(item).lower()}" for item in by_behaviour
    }
    assert asked <= set(kit_tests(BackendConformance))
    assert set(REQUESTS).isdisjoint(by_behaviour)


def test_a_profile_gives_a_reason_for_what_is_missing() -> None:
    with pytest.raises(ValueError, match="'DORA' needs a reason"):
        Profile(backend="mine", unsupported={"DORA": "  "})
    with pytest.raises(ValueError, match="no capability 'DORRA'"):
        Profile(backend="mine", unsupported={"DORRA": "never heard of"})
    profile = Profile(backend="mine", unsupported={"DORA": "needs a newer library"})
    assert profile.why_not(Capability.CAPABILITY_DORA) == "DORA is not declared: needs a newer library"


def test_a_profile_is_examined_wherever_it_can_be_reached() -> None:
    assert Profile(backend="mine").transports() == (Transport.OBJECT, Transport.WORKER)
    assert Profile(backend="mine", python="/elsewhere/python").transports() == (Transport.WORKER,)
    assert Profile(backend="mine", command=("x",)).transports() == (Transport.WORKER,)
    assert Profile(backend="mine", endpoint="unix:///run/b.sock").transports() == (Transport.ENDPOINT,)


def test_the_tiny_base_is_a_whole_model_and_always_the_same(tmp_path: Path) -> None:
    first, second = (read_base(write_base(tmp_path / name)) for name in ("a", "b"))
    assert first.base_digest == second.base_digest
    assert first.tokenizer_digest == second.tokenizer_digest
    assert first.model_type == "qwen3"
    assert list(first.eos_token_ids) == [258]
    weights = [path.read_bytes() for path in sorted(tmp_path.rglob("model.safetensors"))]
    assert weights[0] == weights[1]
    adapters = [write_adapter(tmp_path / f"adapter-{seed}", tmp_path / "a", seed=seed) for seed in (1, 2)]
    tensors = [(folder / "adapter_model.safetensors").read_bytes() for folder in adapters]
    assert tensors[0] != tensors[1]


def test_a_report_survives_its_file_and_says_how_it_went() -> None:
    report = Report(
        backend="mine",
        plugin="tunefleet-mine==1",
        passed=["test_a[worker]"],
        skipped={"test_b[worker]": "DORA is not declared: no"},
        xfailed={"test_c[worker]": "a bug"},
    )
    assert Report.from_json(report.to_json()) == report
    assert report.is_conformant
    assert report.sentence == f"1 passed, 1 skipped, 1 known to fail (kit {KIT_VERSION}, contract 1)"
    report.failed["test_d[worker]"] = "AssertionError"
    assert not report.is_conformant
    assert "failing" in report.badge()
    assert not Report(backend="mine").is_conformant, "nothing ran"
    with pytest.raises(ValueError, match="no conformance report"):
        Report.from_json('{"backend": "mine"}')
