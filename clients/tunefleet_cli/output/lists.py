"""How each noun is listed: one table of fields per noun."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.catalog.v1.catalog_service_pb2 import (
    Backend,
    Family,
    Format,
    ListBackendsResponse,
    ListFamiliesResponse,
    ListFormatsResponse,
    ListPluginsResponse,
    Plugin,
)
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet.dataset.v1.dataset_service_pb2 import ListDatasetsResponse
from tunefleet.deployment.v1.deployment_pb2 import Deployment
from tunefleet.deployment.v1.deployment_service_pb2 import ListDeploymentsResponse
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet.fleet.v1.fleet_service_pb2 import (
    JoinToken,
    ListJoinTokensResponse,
    ListServicesResponse,
    ListTokensResponse,
    Token,
)
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2 import ListCheckpointsResponse, ListJobsResponse
from tunefleet.job.v1.state_pb2 import CheckpointRef
from tunefleet.model.v1.model_pb2 import Model
from tunefleet.model.v1.model_service_pb2 import ListModelsResponse
from tunefleet_cli.output.listing import Field, Listing
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.quantities import age, bytes_text, number_text, percent_text, until
from tunefleet_cli.output.states import (
    contract_cell,
    deployment_state,
    ready_replicas,
    service_kind,
    service_state,
    state_cell,
)
from tunefleet_cli.run_progress import state_name
from tunefleet_client import short_name

__all__ = [
    "BACKENDS",
    "CHECKPOINTS",
    "DATASETS",
    "DEPLOYMENTS",
    "FAMILIES",
    "FORMATS",
    "JOBS",
    "JOIN_TOKENS",
    "MODELS",
    "PLUGINS",
    "SERVICES",
    "TOKENS",
    "job_progress",
]


def job_progress(job: Job) -> str:
    """Return how far a job is, such as `24/60  40 %`; empty if it does not say."""
    step, total = job.progress.step, job.progress.total_steps
    return f"{step:,}/{total:,}  {percent_text(step, total)}" if total else ""


def _job_loss(_: Output, job: Job) -> str:
    return number_text(job.progress.loss) if job.progress.HasField("loss") else ""


def _model_kind(model: Model) -> str:
    return f"{model.kind} ({model.format})" if model.format else model.kind


def _model_size(_: Output, model: Model) -> str:
    return bytes_text(sum(file.size_bytes for file in model.manifest.files))


def _devices(_: Output, service: Service) -> str:
    return ", ".join(f"{item.kind} {bytes_text(item.memory_bytes)}" for item in service.host.devices)


def _service_backends(_: Output, service: Service) -> str:
    return ", ".join(
        item.manifest.name if item.status == "ACTIVE" else f"{item.manifest.name} ({item.status.lower()})"
        for item in service.backends
    )


def _service_cell(output: Output, service: Service) -> Text | str:
    return state_cell(output, service_state(service))


def _capabilities(_: Output, backend: Backend) -> str:
    """Return what a backend can do as words, such as `train sft lora`."""
    names = (Capability.Name(item) for item in backend.installed.manifest.capabilities)
    return " ".join(name.removeprefix("CAPABILITY_").lower() for name in names)


def _say_broken_plugins(output: Output, plugins: Sequence[Plugin]) -> None:
    for plugin in plugins:
        if plugin.error:
            output.warning(f"{plugin.name}: {plugin.error}", hint=plugin.hint)


JOBS: Listing[Job] = Listing(
    message=lambda items: ListJobsResponse(jobs=items),
    fields=[
        Field(title="JOB", style="accent", read=lambda _, job: short_name(job.name)),
        Field(title="STATE", read=lambda output, job: state_cell(output, state_name(job.state))),
        Field(title="PROGRESS", align="right", rank=1, read=lambda _, job: job_progress(job)),
        Field(title="LOSS", align="right", rank=3, read=_job_loss),
        Field(title="WORK", rank=4, read=lambda _, job: job.spec.WhichOneof("work") or ""),
        Field(title="BACKEND", rank=5, read=lambda _, job: job.spec.backend),
        Field(title="SERVICE", rank=6, read=lambda _, job: short_name(job.service)),
        Field(
            title="AGE", align="right", rank=2, read=lambda output, job: age(job.create_time, output.now())
        ),
    ],
    empty="No jobs yet.  tunefleet train FILE",
)

CHECKPOINTS: Listing[CheckpointRef] = Listing(
    message=lambda items: ListCheckpointsResponse(checkpoints=items),
    fields=[
        Field(title="STEP", style="accent", align="right", read=lambda _, item: f"{item.step:,}"),
        Field(title="ATTEMPT", align="right", read=lambda _, item: str(item.attempt)),
        Field(title="MANIFEST", style="faint", read=lambda _, item: item.manifest_digest),
    ],
    empty="No checkpoint is committed yet.",
)

DATASETS: Listing[Dataset] = Listing(
    message=lambda items: ListDatasetsResponse(datasets=items),
    fields=[
        Field(title="DATASET", style="accent", read=lambda _, item: short_name(item.name)),
        Field(title="ROWS", align="right", read=lambda _, item: f"{item.rows:,}"),
        Field(title="SIZE", align="right", rank=2, read=lambda _, item: bytes_text(item.size_bytes)),
        Field(title="FORMAT", rank=3, read=lambda _, item: item.format),
        Field(title="SHA-256", style="faint", rank=4, read=lambda _, item: item.sha256[:16]),
        Field(
            title="AGE", align="right", rank=1, read=lambda output, item: age(item.create_time, output.now())
        ),
    ],
    empty="No datasets yet.  tunefleet datasets create NAME FILE",
)

MODELS: Listing[Model] = Listing(
    message=lambda items: ListModelsResponse(models=items),
    fields=[
        Field(title="MODEL", style="accent", read=lambda _, model: short_name(model.name)),
        Field(title="KIND", read=lambda _, model: _model_kind(model)),
        Field(title="BASE", rank=2, read=lambda _, model: short_name(model.base_model)),
        Field(title="SIZE", align="right", rank=3, read=_model_size),
        Field(title="JOB", rank=4, read=lambda _, model: short_name(model.job)),
        Field(
            title="AGE",
            align="right",
            rank=1,
            read=lambda output, model: age(model.create_time, output.now()),
        ),
    ],
    empty="No models yet.  tunefleet train FILE",
)

DEPLOYMENTS: Listing[Deployment] = Listing(
    message=lambda items: ListDeploymentsResponse(deployments=items),
    fields=[
        Field(title="DEPLOYMENT", style="accent", read=lambda _, item: short_name(item.name)),
        Field(title="STATE", read=lambda output, item: state_cell(output, deployment_state(item))),
        Field(title="REPLICAS", align="right", rank=2, read=lambda _, item: ready_replicas(item)),
        Field(title="TOKENS", rank=2, read=lambda output, item: contract_cell(output, item.contract.tokens)),
        Field(
            title="NUMBERS", rank=3, read=lambda output, item: contract_cell(output, item.contract.numbers)
        ),
        Field(title="MODEL", rank=4, read=lambda _, item: item.spec.model),
        Field(title="SERVICE", rank=5, read=lambda _, item: short_name(item.service)),
        Field(
            title="AGE", align="right", rank=1, read=lambda output, item: age(item.create_time, output.now())
        ),
    ],
    empty="Nothing is served.  tunefleet deploy MODEL",
)

SERVICES: Listing[Service] = Listing(
    message=lambda items: ListServicesResponse(services=items),
    fields=[
        Field(title="SERVICE", style="accent", read=lambda _, item: short_name(item.name)),
        Field(title="KIND", read=lambda _, item: service_kind(item)),
        Field(title="STATE", read=_service_cell),
        Field(title="HOST", rank=4, read=lambda _, item: item.host.hostname),
        Field(title="DEVICES", rank=3, read=_devices),
        Field(title="BACKENDS", rank=2, read=_service_backends),
        Field(title="HOLDS", rank=5, read=lambda _, item: ", ".join(short_name(name) for name in item.holds)),
        Field(
            title="HEARD",
            align="right",
            rank=1,
            read=lambda output, item: age(item.last_heard_time, output.now()),
        ),
    ],
    empty="No service is attached.  tunefleet up",
)

TOKENS: Listing[Token] = Listing(
    message=lambda items: ListTokensResponse(tokens=items),
    fields=[
        Field(title="TOKEN", style="accent", read=lambda _, item: short_name(item.name)),
        Field(title="ROLE", read=lambda _, item: item.role),
        Field(title="PROJECT", rank=2, read=lambda _, item: item.project or "all"),
        Field(title="CREATOR", rank=4, read=lambda _, item: item.creator),
        Field(
            title="ENDS",
            align="right",
            rank=1,
            read=lambda output, item: until(item.expire_time, output.now()) or "never",
        ),
        Field(
            title="AGE", align="right", rank=3, read=lambda output, item: age(item.create_time, output.now())
        ),
    ],
    empty="No tokens.  tunefleet tokens create NAME --role user",
)

JOIN_TOKENS: Listing[JoinToken] = Listing(
    message=lambda items: ListJoinTokensResponse(join_tokens=items),
    fields=[
        Field(title="TOKEN", style="accent", read=lambda _, item: short_name(item.name)),
        Field(title="KIND", read=lambda _, item: service_kind(item)),
        Field(title="SERVICE", rank=2, read=lambda _, item: short_name(item.service) or "any"),
        Field(title="USES", align="right", rank=3, read=lambda _, item: str(item.uses_left)),
        Field(title="CREATOR", rank=4, read=lambda _, item: item.creator),
        Field(
            title="ENDS",
            align="right",
            rank=1,
            read=lambda output, item: until(item.expire_time, output.now()),
        ),
    ],
    empty="No join tokens.  tunefleet fleet tokens create --kind trainer",
)

PLUGINS: Listing[Plugin] = Listing(
    message=lambda items: ListPluginsResponse(plugins=items),
    fields=[
        Field(title="PLUGIN", style="accent", read=lambda _, item: item.name),
        Field(title="KIND", read=lambda _, item: item.kind),
        Field(title="STATUS", read=lambda output, item: state_cell(output, item.status)),
        Field(title="DISTRIBUTION", rank=2, read=lambda _, item: item.distribution),
        Field(title="WHAT", wraps=True, rank=1, read=lambda _, item: item.summary),
    ],
    empty="No plugins.  tunefleet plugins install NAME",
    after=_say_broken_plugins,
)

BACKENDS: Listing[Backend] = Listing(
    message=lambda items: ListBackendsResponse(backends=items),
    fields=[
        Field(title="BACKEND", style="accent", read=lambda _, item: item.installed.manifest.name),
        Field(title="STATUS", read=lambda output, item: state_cell(output, item.installed.status)),
        Field(title="CAN", rank=1, wraps=True, read=_capabilities),
        Field(title="ENVIRONMENT", rank=3, read=lambda _, item: item.installed.environment_digest[:12]),
        Field(
            title="SERVICES",
            rank=2,
            read=lambda _, item: ", ".join(short_name(name) for name in item.services),
        ),
    ],
    empty="No backend is installed.  tunefleet plugins install trl",
)

FAMILIES: Listing[Family] = Listing(
    message=lambda items: ListFamiliesResponse(families=items),
    fields=[
        Field(title="FAMILY", style="accent", read=lambda _, item: item.name),
        Field(title="MODEL TYPES", read=lambda _, item: ", ".join(item.model_types)),
        Field(title="ENDS WITH", rank=2, read=lambda _, item: " ".join(item.stop_tokens)),
        Field(title="ADAPTED", rank=1, wraps=True, read=lambda _, item: ", ".join(item.target_modules)),
    ],
    empty="No family is known.  tunefleet doctor",
)

FORMATS: Listing[Format] = Listing(
    message=lambda items: ListFormatsResponse(formats=items),
    fields=[
        Field(title="FORMAT", style="accent", read=lambda _, item: item.name),
        Field(title="BITS", align="right", read=lambda _, item: f"{item.bits_per_weight:.2f}"),
        Field(title="TRAINED BY", rank=1, read=lambda _, item: ", ".join(item.trained_by)),
        Field(title="WRITTEN BY", rank=1, read=lambda _, item: ", ".join(item.exported_by)),
        Field(title="SERVED BY", wraps=True, read=lambda _, item: ", ".join(item.served_by)),
        Field(title="VARIANTS", rank=2, wraps=True, read=lambda _, item: ", ".join(item.variants)),
    ],
    empty="No quantisation format is known.  tunefleet doctor",
)
