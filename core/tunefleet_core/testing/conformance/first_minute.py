"""FirstMinute and Merge: what is tried before the first epoch, and adapters merged into their base."""

from __future__ import annotations

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.job.v1.event_pb2 import AttemptOutcome
from tunefleet_core.testing.conformance.bench import Bench, in_words
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.shared_runs import tried_run, whole_run

__all__ = ["FirstMinute", "Merge"]

_PREFLIGHT = (Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_PREFLIGHT)
_SUCCEEDED = AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED
_FAILED = AttemptOutcome.ATTEMPT_OUTCOME_FAILED


class FirstMinute(Suite):
    """The preflight of a run."""

    @case(*_PREFLIGHT)
    async def test_a_preflight_is_told_before_the_first_step(self, bench: Bench) -> None:
        events = await bench.events((await bench.shared(tried_run)).order.run)
        kinds = [event.WhichOneof("payload") for event in events]
        assert "preflight" in kinds
        assert kinds.index("preflight") < kinds.index("metrics")

    @case(*_PREFLIGHT, is_error=True)
    async def test_a_preflight_leaves_no_trace_in_the_result(self, bench: Bench) -> None:
        tried, untried = await bench.shared(tried_run), await bench.shared(whole_run)
        assert bench.output_digests(tried.order) == bench.output_digests(untried.order)


class Merge(Suite):
    """`export` runs that merge."""

    @case(Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_LORA, Capability.CAPABILITY_MERGE)
    async def test_a_merge_of_what_was_trained_is_a_whole_model(self, bench: Bench) -> None:
        order = bench.orders.run(spec=bench.orders.export())
        order.adapter_dir = str((await bench.shared(whole_run)).work / "output")
        run = await bench.finish(order)
        assert run.outcome == _SUCCEEDED, in_words(run)
        assert run.output.kind == ArtifactKind.ARTIFACT_KIND_MODEL
        files = bench.output_digests(order)
        assert "adapter_config.json" not in files, "it is an adapter still"
        assert files

    @case(Capability.CAPABILITY_MERGE, is_error=True)
    async def test_a_merge_without_its_adapter_fails_with_a_reason(self, bench: Bench) -> None:
        order = bench.orders.run(spec=bench.orders.export())
        order.adapter_dir = str(bench.folder / "no-such-adapter")
        run = await bench.finish(order)
        assert run.outcome == _FAILED
        assert run.error.message
