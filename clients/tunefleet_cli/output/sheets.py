"""How one model, deployment, service, dataset, token or manifest looks."""

from __future__ import annotations

from rich.text import Text

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, Manifest
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet.fleet.v1.fleet_service_pb2 import GetFleetResponse
from tunefleet.model.v1.model_pb2 import Model
from tunefleet_cli.output.events import download_text
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.quantities import age, bytes_text
from tunefleet_cli.output.states import (
    contract_cell,
    deployment_state,
    fetches_text,
    ready_replicas,
    service_kind,
    service_state,
    state_cell,
)
from tunefleet_cli.output.table import Column, Table
from tunefleet_client import short_name

__all__ = [
    "show_dataset",
    "show_deployment",
    "show_fleet",
    "show_manifest",
    "show_model",
    "show_service",
]


def show_model(output: Output, model: Model) -> None:
    """Print a model, its files and where it comes from."""
    if output.is_json:
        output.message(model)
        return
    lineage = model.manifest.lineage
    output.facts(
        [
            ("model", Text(short_name(model.name), style="strong")),
            ("kind", model.kind or _kind(model.manifest)),
            ("format", model.format),
            ("base", model.base_model),
            ("job", short_name(model.job)),
            ("attempt", str(lineage.attempt or "")),
            ("step", str(model.manifest.step or "")),
            ("hardware", lineage.hardware),
            ("plugins", ", ".join(lineage.plugins)),
            ("template", lineage.template_digest[:16]),
            ("datasets", ", ".join(digest[:12] for digest in lineage.dataset_digests)),
            ("digest", model.manifest.digest[:16]),
            ("created", f"{age(model.create_time, output.now())} ago"),
        ]
    )
    _files(output, model.manifest)


def show_manifest(output: Output, manifest: Manifest) -> None:
    """Print a manifest and its files."""
    if output.is_json:
        output.message(manifest)
        return
    output.facts(
        [
            ("manifest", Text(manifest.digest, style="strong")),
            ("kind", _kind(manifest)),
            ("step", str(manifest.step or "")),
            ("job", short_name(manifest.lineage.job)),
            ("attempt", str(manifest.lineage.attempt or "")),
            ("created", f"{age(manifest.create_time, output.now())} ago"),
        ]
    )
    _files(output, manifest)


def show_deployment(output: Output, deployment: Deployment) -> None:
    """Print a deployment and what the train-to-serve contract found."""
    if output.is_json:
        output.message(deployment)
        return
    contract = deployment.contract
    distances = (
        f"{contract.distance_to_tuned:.4f} to tuned, {contract.distance_to_base:.4f} to base (nats)"
        if contract.distance_to_base
        else ""
    )
    output.facts(
        [
            ("deployment", Text(short_name(deployment.name), style="strong")),
            ("state", state_cell(output, deployment_state(deployment))),
            ("replicas", ready_replicas(deployment)),
            ("why", deployment.error.message),
            ("waits", deployment.reason),
            ("fetches", fetches_text(deployment)),
            ("model", deployment.spec.model),
            ("version", str(deployment.version or "")),
            ("service", short_name(deployment.service)),
            ("tokens", contract_cell(output, contract.tokens)),
            ("numbers", contract_cell(output, contract.numbers)),
            ("distance", distances),
            ("contract", contract.summary),
        ]
    )
    if len(deployment.replicas) > 1:
        _replicas(output, deployment)


def _replicas(output: Output, deployment: Deployment) -> None:
    columns = [
        Column(title="REPLICA", style="accent", align="right"),
        Column(title="STATE"),
        Column(title="SERVICE"),
        Column(title="DEVICES", rank=3),
        Column(title="TOKENS", rank=1),
        Column(title="NUMBERS", rank=1),
        Column(title="WHY", rank=2, wraps=True),
    ]
    rows: list[list[Text | str]] = [
        [
            str(item.number),
            state_cell(output, DeploymentState.Name(item.state).removeprefix("DEPLOYMENT_STATE_")),
            short_name(item.service),
            ", ".join(item.device_ids),
            contract_cell(output, item.contract.tokens),
            contract_cell(output, item.contract.numbers),
            item.error.message or (download_text(item.download) if item.HasField("download") else ""),
        ]
        for item in deployment.replicas
    ]
    output.heading("Replicas")
    output.table(Table(columns=columns, rows=rows))


def show_service(output: Output, service: Service) -> None:
    """Print a service, its devices and its backends."""
    if output.is_json:
        output.message(service)
        return
    host = service.host
    heard = age(service.last_heard_time, output.now())
    output.facts(
        [
            ("service", Text(short_name(service.name), style="strong")),
            ("kind", service_kind(service)),
            ("state", state_cell(output, service_state(service))),
            ("heard", f"{heard} ago" if heard else ""),
            ("version", service.version),
            ("host", " ".join(part for part in (host.hostname, host.platform) if part)),
            ("devices", ", ".join(f"{item.id} {bytes_text(item.memory_bytes)}" for item in host.devices)),
            ("labels", ", ".join(f"{name}={value}" for name, value in sorted(service.labels.items()))),
            ("holds", ", ".join(short_name(item) for item in service.holds)),
            *((name, address) for name, address in sorted(service.endpoints.items())),
        ]
    )
    if service.backends:
        output.heading("Backends")
        columns = [
            Column(title="BACKEND", style="accent"),
            Column(title="STATUS"),
            Column(title="PLUGIN", rank=1),
            Column(title="WHY", wraps=True, rank=2),
        ]
        rows = [
            [item.manifest.name, state_cell(output, item.status), item.manifest.plugin, item.error]
            for item in service.backends
        ]
        output.table(Table(columns=columns, rows=rows))


def show_dataset(output: Output, dataset: Dataset) -> None:
    """Print a dataset."""
    if output.is_json:
        output.message(dataset)
        return
    output.facts(
        [
            ("dataset", Text(short_name(dataset.name), style="strong")),
            ("rows", f"{dataset.rows:,}"),
            ("size", bytes_text(dataset.size_bytes)),
            ("format", dataset.format),
            ("sha-256", dataset.sha256),
            ("labels", ", ".join(f"{name}={value}" for name, value in sorted(dataset.labels.items()))),
            ("created", f"{age(dataset.create_time, output.now())} ago by {dataset.creator or 'unknown'}"),
        ]
    )


def show_fleet(output: Output, fleet: GetFleetResponse) -> None:
    """Print versions, addresses and limits of a fleet."""
    if output.is_json:
        output.message(fleet)
        return
    watermark = f", new work is refused below {bytes_text(fleet.disk_watermark_bytes)}"
    output.facts(
        [
            ("version", fleet.version),
            ("contract", ", ".join(str(item) for item in fleet.contract_versions)),
            ("schema", fleet.schema_version),
            ("up since", f"{age(fleet.start_time, output.now())} ago" if fleet.start_time.seconds else ""),
            (
                "disk",
                f"{bytes_text(fleet.disk_free_bytes)} free"
                + (watermark if fleet.disk_watermark_bytes else ""),
            ),
            ("blobs", fleet.blob_address),
            ("you", f"{fleet.principal} ({fleet.role})" if fleet.principal else ""),
        ]
    )


def _kind(manifest: Manifest) -> str:
    return ArtifactKind.Name(manifest.kind).removeprefix("ARTIFACT_KIND_").lower()


def _files(output: Output, manifest: Manifest) -> None:
    output.heading("Files")
    columns = [
        Column(title="FILE", style="accent"),
        Column(title="SIZE", align="right"),
        Column(title="SHA-256", style="faint", rank=1),
    ]
    rows = [[file.path, bytes_text(file.size_bytes), file.sha256[:16]] for file in manifest.files]
    output.table(Table(columns=columns, rows=rows, empty="The manifest names no file."))
