"""An export is refused at submit where it could not end well."""

from __future__ import annotations

import pytest
from resolve_lab import base_facts, manifest

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.job.v1.resolved_pb2 import ResolvedAdapter, ResolvedData, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve import ChosenBackend, Resolution, resolve_export
from tunefleet_core.spec import find_violations

ADAPTER = ResolvedAdapter(model="projects/default/models/tickets", manifest_digest="a" * 64)


def export_spec(model: str = "models/tickets", dtype: str = "") -> JobSpec:
    spec = JobSpec(name="whole")
    spec.export.model.model = model
    spec.export.merge.dtype = dtype
    return spec


def trained(facts: BaseFacts | None = None) -> ResolvedSpec:
    resolved = ResolvedSpec(base=facts or base_facts(base_digest="b" * 64, tokenizer_digest="c" * 64))
    resolved.spec.train.adapter.lora.rank = 8
    resolved.data.append(ResolvedData(role="train", path="/gone.jsonl", sha256="d" * 64))
    return resolved


def resolve(
    spec: JobSpec, was: ResolvedSpec, *, now: BaseFacts | None = None, free: int = 0, **changes: object
) -> Resolution:
    backend = ChosenBackend(manifest=manifest(**changes))
    return resolve_export(spec, was, ADAPTER, facts=now or was.base, backend=backend, disk_free_bytes=free)


def test_it_keeps_what_the_adapter_was_trained_as() -> None:
    found = resolve(export_spec(), trained()).spec
    assert found.adapter.model == ADAPTER.model
    assert found.adapter.trained_with.adapter.lora.rank == 8
    assert [data.sha256 for data in found.data] == ["d" * 64]
    assert found.spec.export.merge.dtype == "bfloat16", "the base's own"
    assert found.estimate.weights_bytes == 2240
    assert {value.field for value in found.values} >= {"export.merge.dtype", "backend"}


def test_an_adapter_that_was_written_for_a_quantised_base_is_not_merged() -> None:
    was = trained()
    was.spec.train.adapter.lora.init, was.spec.train.quantization = "loftq", "nf4"
    resolve(export_spec(), was)
    was.spec.train.intended_serving.precision = "nf4"
    with pytest.raises(TunefleetError, match="would be there twice") as caught:
        resolve(export_spec(), was)
    assert caught.value.violations[0].field == "export.model.model"


def test_a_disk_too_small_is_refused_with_figures() -> None:
    with pytest.raises(TunefleetError, match=r"1,053,056 bytes.*500 free") as caught:
        resolve(export_spec(dtype="float32"), trained(), free=500)
    assert caught.value.reason is Reason.DISK_FULL
    assert caught.value.metadata == {"needed_bytes": str((1 << 20) + 4480), "free_bytes": "500"}
    assert resolve(export_spec(dtype="float32"), trained(), free=1 << 21).spec.spec.export.merge.dtype


def test_a_base_that_changed_is_refused() -> None:
    with pytest.raises(
        TunefleetError, match="changed since the adapter was trained: its tokenizer"
    ) as caught:
        resolve(export_spec(), trained(), now=base_facts(base_digest="b" * 64, tokenizer_digest="other"))
    assert caught.value.reason is Reason.BASE_INVALID


def test_a_backend_that_cannot_merge_is_refused() -> None:
    with pytest.raises(TunefleetError, match="MERGE") as caught:
        resolve(export_spec(), trained(), capabilities=[Capability.CAPABILITY_TRAIN])
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (JobSpec(name="x", export={"model": {"model": "models/a"}}), "export"),
        (JobSpec(name="x", export={"merge": {}}), "export.model.model"),
        (export_spec(model="/a/folder"), "export.model.model"),
        (export_spec(dtype="int4"), "export.merge.dtype"),
    ],
)
def test_a_wrong_spec_is_named_by_its_field(spec: JobSpec, field: str) -> None:
    assert field in [violation.field for violation in find_violations(spec)]
