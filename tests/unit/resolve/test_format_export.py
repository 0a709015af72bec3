"""An export in a format is decided at submit: who writes it, what it takes, and what cannot end well."""

from __future__ import annotations

import json

import pytest
from resolve_lab import base_facts, manifest

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend, Service, ServiceKind
from tunefleet.job.v1.resolved_pb2 import ResolvedAdapter, ResolvedData, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_coordinator.exporters import find_exporter
from tunefleet_core.catalog import Format
from tunefleet_core.catalog.format import Variant
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.resolve import ChosenBackend, FormatExport, Resolution, resolve_format_export
from tunefleet_core.spec import find_violations

ADAPTER = ResolvedAdapter(model="projects/default/models/tickets", manifest_digest="a" * 64)
GPTQ = Format(
    name="gptq",
    summary="x",
    variants=(
        Variant(name="4bit", bits_per_weight=4.25, group_size=128),
        Variant(name="8bit", bits_per_weight=8.25, group_size=128),
    ),
)


def writer(name: str = "compress", *formats: str) -> BackendManifest:
    return manifest(
        name=name,
        capabilities=[Capability.CAPABILITY_QUANTIZE],
        exported_formats=formats or ("awq", "gptq"),
        options_schema=None,
    )


def export_spec(form: str = "gptq", **fields: object) -> JobSpec:
    spec = JobSpec(name="small")
    spec.export.model.model = "models/tickets"
    spec.export.quantize.format = form
    for name, value in fields.items():
        setattr(spec.export.quantize, name, value)
    return spec


def trained(*, rows: int = 500) -> ResolvedSpec:
    resolved = ResolvedSpec(base=base_facts(base_digest="b" * 64, tokenizer_digest="c" * 64))
    resolved.spec.train.adapter.lora.rank = 8
    resolved.data.append(ResolvedData(role="train", path="/rows.jsonl", sha256="d" * 64, rows=rows))
    return resolved


def resolve(
    spec: JobSpec,
    was: ResolvedSpec | None = None,
    *,
    facts: BaseFacts | None = None,
    is_whole: bool = False,
    free: int = 0,
) -> Resolution:
    was = was or trained()
    adapter = None if is_whole else ADAPTER
    merger = None if is_whole else ChosenBackend(manifest=manifest())
    return resolve_format_export(
        spec,
        FormatExport(trained=was, adapter=adapter, facts=facts or was.base, quantization=GPTQ),
        backend=ChosenBackend(manifest=writer()),
        merge_backend=merger,
        disk_free_bytes=free,
    )


def test_everything_left_open_is_filled_with_its_reason() -> None:
    found = resolve(export_spec()).spec
    assert found.spec.export.quantize.variant == "4bit"
    assert found.spec.export.quantize.calibration_rows == 128
    assert {value.field for value in found.values} >= {
        "backend",
        "export.quantize.variant",
        "export.quantize.calibration_rows",
    }
    assert found.backend.name == "compress"
    assert found.merge_backend.name == "trl"
    assert found.adapter.trained_with.adapter.lora.rank == 8
    assert [data.sha256 for data in found.data] == ["d" * 64], "what calibrates is what was trained on"


def test_fewer_rows_than_usual_are_all_taken() -> None:
    assert resolve(export_spec(), trained(rows=20)).spec.spec.export.quantize.calibration_rows == 20
    asked = resolve(export_spec(calibration_rows=5))
    assert asked.spec.spec.export.quantize.calibration_rows == 5


def test_a_whole_model_needs_no_merger() -> None:
    found = resolve(export_spec(), is_whole=True).spec
    assert not found.HasField("merge_backend")
    assert not found.HasField("adapter")


def test_the_disk_holds_the_merged_model_and_the_result() -> None:
    merged, result = 2240, round(1120 * 4.25 / 8) + (1 << 20)
    with pytest.raises(TunefleetError, match=f"{result:,} bytes, and the merged one before it") as caught:
        resolve(export_spec(), free=500)
    assert caught.value.reason is Reason.DISK_FULL
    assert caught.value.metadata["needed_bytes"] == str(merged + result)
    assert resolve(export_spec(), free=merged + result)
    assert resolve(export_spec(), is_whole=True, free=result)
    with pytest.raises(TunefleetError):
        resolve(export_spec(variant="8bit"), is_whole=True, free=result)


def test_an_unknown_variant_is_refused_with_the_nearest() -> None:
    with pytest.raises(TunefleetError, match="did you mean '4bit'") as caught:
        resolve(export_spec(variant="4bits"))
    assert caught.value.metadata["field"] == "export.quantize.variant"


def test_what_is_quantised_already_is_refused() -> None:
    facts = base_facts()
    facts.config_json = json.dumps({"quantization_config": {"quant_method": "compressed-tensors"}})
    with pytest.raises(TunefleetError, match="stored quantised already") as caught:
        resolve(export_spec(), facts=facts, is_whole=True)
    assert caught.value.reason is Reason.BASE_INVALID
    named = base_facts()
    named.quantization.format = "awq"
    with pytest.raises(TunefleetError, match="already as awq"):
        resolve(export_spec(), facts=named, is_whole=True)


def test_a_base_that_changed_since_is_refused() -> None:
    with pytest.raises(TunefleetError, match="changed since the adapter was trained"):
        resolve(export_spec(), facts=base_facts(base_digest="other", tokenizer_digest="c" * 64))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (export_spec(form=""), "export.quantize.format"),
        (export_spec(calibration_rows=0), "export.quantize.calibration_rows"),
    ],
)
def test_a_wrong_spec_is_named_by_its_field(spec: JobSpec, field: str) -> None:
    assert field in [violation.field for violation in find_violations(spec)]


def service(name: str, *manifests: BackendManifest, status: str = "ACTIVE") -> Service:
    backends = [InstalledBackend(manifest=item, status=status) for item in manifests]
    return Service(name=name, kind=ServiceKind.SERVICE_KIND_TRAINER, backends=backends)


def test_the_trainer_that_has_writer_and_merger_is_chosen() -> None:
    fleet = [service("a", writer()), service("b", manifest(), writer())]
    found = find_exporter(export_spec(), fleet, merged_by="trl")
    assert found.service == "b"
    assert found.merge_backend is not None
    assert find_exporter(export_spec(), fleet, merged_by="").service == "a", "a whole model needs no merger"


def test_writer_and_merger_on_two_trainers_are_refused_by_name() -> None:
    fleet = [service("a", writer()), service("b", manifest())]
    with pytest.raises(TunefleetError, match="no trainer has both 'trl' and 'compress'") as caught:
        find_exporter(export_spec(), fleet, merged_by="trl")
    assert caught.value.hint is not None
    assert "tunefleet plugins install trl" in caught.value.hint


def test_an_adapter_whose_trainer_merges_none_is_refused_at_submit() -> None:
    trainer = writer("mlx", "mlx")  # writes the format itself, and leaves adapters as they are
    with pytest.raises(TunefleetError, match="'mlx' trained this adapter and merges none") as caught:
        find_exporter(export_spec("mlx"), [service("a", trainer)], merged_by="mlx")
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert find_exporter(export_spec("mlx"), [service("a", trainer)], merged_by="").service == "a"


def test_a_misspelt_format_is_refused_with_the_nearest() -> None:
    with pytest.raises(TunefleetError, match="'gtpq'; did you mean 'gptq'") as caught:
        find_exporter(export_spec("gtpq"), [service("a", writer())], merged_by="")
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.metadata["field"] == "export.quantize.format"


@pytest.mark.parametrize(("form", "plugin"), [("gguf", "gguf"), ("mlx", "mlx"), ("gptq", "compress")])
def test_a_format_that_nobody_writes_names_what_to_install(form: str, plugin: str) -> None:
    with pytest.raises(TunefleetError) as caught:
        find_exporter(export_spec(form), [service("a", manifest())], merged_by="", known=("gptq",))
    assert caught.value.reason is Reason.BACKEND_NOT_INSTALLED
    assert caught.value.hint == f"tunefleet plugins install {plugin}"


def test_the_backend_that_was_asked_for_must_write_it() -> None:
    spec = export_spec("gguf")
    spec.backend = "compress"
    fleet = [service("a", writer(), writer("llamacpp", "gguf"))]
    with pytest.raises(TunefleetError, match="'compress' does not write the format 'gguf'") as caught:
        find_exporter(spec, fleet, merged_by="")
    assert caught.value.reason is Reason.CAPABILITY_UNSUPPORTED
    assert caught.value.hint == "Leave the backend out, or name llamacpp."


def test_a_broken_writer_does_not_count() -> None:
    with pytest.raises(TunefleetError):
        find_exporter(export_spec(), [service("a", writer(), status="FAILED")], merged_by="")


def test_without_a_trainer_it_says_so() -> None:
    with pytest.raises(TunefleetError, match="No trainer service"):
        find_exporter(export_spec(), [], merged_by="")
