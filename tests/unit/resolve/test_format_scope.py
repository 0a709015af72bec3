"""A format that some backend writes for some types of model: who is chosen, and who writes it back."""

from __future__ import annotations

import pytest
from resolve_lab import base_facts, chosen, refusal
from resolve_lab import train_spec as plain_spec

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend, Service, ServiceKind
from tunefleet.job.v1.resolved_pb2 import ResolvedAdapter, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_coordinator.exporters import find_exporter
from tunefleet_core.backend import backend_manifest
from tunefleet_core.errors import Reason
from tunefleet_core.resolve import FormatExport, resolve_format_export

_WRITES = [Capability.CAPABILITY_QUANTIZE]


def _manifest(name: str, capabilities: list[Capability.ValueType], *types: str) -> BackendManifest:
    return backend_manifest(
        name=name,
        distribution="tunefleet-absent",
        summary="s",
        capabilities=capabilities,
        device_kinds=["cpu"],
        exported_formats=["mxfp4"],
        exported_scopes={"mxfp4": types} if types else None,
    )


GENERAL = _manifest("compress", _WRITES)
SPECIAL = _manifest("trl", [*_WRITES, Capability.CAPABILITY_MERGE], "gpt_oss")


def _trainer(*manifests: BackendManifest) -> list[Service]:
    installed = [InstalledBackend(manifest=manifest, status="ACTIVE") for manifest in manifests]
    return [Service(name="services/t", kind=ServiceKind.SERVICE_KIND_TRAINER, backends=installed)]


def _export_spec(*, backend: str = "") -> JobSpec:
    spec = JobSpec(name="x", backend=backend)
    spec.export.model.model = "models/a"
    spec.export.quantize.format = "mxfp4"
    return spec


@pytest.mark.parametrize(
    ("model_type", "writer", "merger"), [("gpt_oss", "trl", None), ("llama", "compress", "trl")]
)
def test_who_writes_a_format_for_a_type_alone_comes_first_and_writes_no_other(
    model_type: str, writer: str, merger: str | None
) -> None:
    for manifests in ((GENERAL, SPECIAL), (SPECIAL, GENERAL)):
        exporter = find_exporter(_export_spec(), _trainer(*manifests), merged_by="trl", model_type=model_type)
        assert exporter.backend.manifest.name == writer
        assert (exporter.merge_backend.manifest.name if exporter.merge_backend else None) == merger


@pytest.mark.parametrize(
    ("backend", "reason"),
    [("", Reason.BACKEND_NOT_INSTALLED), ("trl", Reason.CAPABILITY_UNSUPPORTED)],
)
def test_a_type_that_nobody_writes_is_named(backend: str, reason: Reason) -> None:
    error = refusal(
        reason,
        lambda: find_exporter(
            _export_spec(backend=backend), _trainer(SPECIAL), merged_by="trl", model_type="llama"
        ),
    )
    assert "'mxfp4' for models of the type 'llama'" in error.message
    assert "compress" in error.hint


def _export(*, stored: str, adapter: bool) -> FormatExport:
    facts = base_facts(config_json='{"quantization_config": {"quant_method": "x"}}')
    facts.quantization.format = stored
    trained = ResolvedSpec(spec=plain_spec(), base=facts)
    return FormatExport(
        trained=trained,
        adapter=ResolvedAdapter(model="models/a") if adapter else None,
        facts=facts,
        quantization=None,
    )


def test_an_adapter_is_written_back_in_the_format_of_its_base() -> None:
    backend = chosen(capabilities=_WRITES, exported_formats=["mxfp4"])
    resolution = resolve_format_export(_export_spec(), _export(stored="mxfp4", adapter=True), backend=backend)
    assert resolution.spec.spec.export.quantize.format == "mxfp4"


@pytest.mark.parametrize(("stored", "adapter"), [("mxfp4", False), ("awq", True)])
def test_what_is_quantised_otherwise_is_not_rounded_twice(stored: str, adapter: bool) -> None:
    backend = chosen(capabilities=_WRITES, exported_formats=["mxfp4"])
    refusal(
        Reason.BASE_INVALID,
        lambda: resolve_format_export(
            _export_spec(), _export(stored=stored, adapter=adapter), backend=backend
        ),
    )
