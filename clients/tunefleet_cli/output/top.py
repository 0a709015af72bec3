"""How the fleet looks at a moment: every service, and below it what it works on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Group, RenderableType
from rich.text import Text

from tunefleet.deployment.v1.deployment_pb2 import Deployment, DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet.job.v1.job_pb2 import Job
from tunefleet_cli.fleet_view import FleetLook
from tunefleet_cli.output.lists import job_progress
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.quantities import bytes_text, count_text
from tunefleet_cli.output.states import deployment_state, service_state, state_cell
from tunefleet_cli.output.table import Column, Table, human_table
from tunefleet_cli.run_progress import state_name
from tunefleet_client import short_name

__all__ = ["show_look", "top_screen"]

_COLUMNS = (
    Column(title="SERVICE / WORK", style="accent"),
    Column(title="STATE"),
    Column(title="DEVICE", rank=3),
    Column(title="PROGRESS", align="right", rank=2),
    Column(title="PACE", align="right", rank=1),
    Column(title="TOKENS/S", align="right", rank=5),
    Column(title="MEMORY", align="right", rank=4),
)
_Row = Sequence[Text | str]


def show_look(output: Output, look: FleetLook) -> None:
    """Print the fleet once: a table for pipes, one document for programs."""
    if output.is_json:
        output.document(
            "tunefleet.FleetLook",
            {
                "services": [_fields(item) for item in look.services],
                "jobs": [_fields(item) for item in look.jobs],
                "deployments": [_fields(item) for item in look.deployments],
                "requests": dict(look.requests),
            },
        )
        return
    output.table(_table(output, look))


def top_screen(output: Output, look: FleetLook, *, note: str, now: datetime) -> RenderableType:
    """Return the whole screen of the live table."""
    running = sum(state_name(job.state) == "RUNNING" for job in look.jobs)
    waiting = sum(state_name(job.state) in ("PENDING", "WAITING_RETRY") for job in look.jobs)
    head = Text.assemble(
        ("tunefleet fleet top", "strong"),
        (
            f"   {len(look.services)} services   {running} running   {waiting} waiting"
            f"   {len(look.deployments)} served   {now:%H:%M:%S}",
            "faint",
        ),
        no_wrap=True,
        overflow="ellipsis",
    )
    table = _table(output, look)
    body = human_table(table, width=output.width) if table.rows else Text(table.empty, style="faint")
    return Group(head, Text(), body, Text(), Text(note, style="faint", no_wrap=True, overflow="ellipsis"))


def _table(output: Output, look: FleetLook) -> Table:
    rows: list[_Row] = []
    for service in look.services:
        rows.append(_service(output, look, service))
        rows += [_job(output, look, job) for job in look.jobs if job.service == service.name]
        for item in look.deployments:
            rows += _deployment(output, look, item, service.name)
    known = {service.name for service in look.services}
    homeless = [job for job in look.jobs if job.service not in known]
    if homeless:
        rows.append([Text("waiting for a device", style="faint"), "", "", "", "", "", ""])
        rows += [_job(output, look, job) for job in homeless]
    return Table(columns=_COLUMNS, rows=rows, empty="No service is attached.  tunefleet up")


def _service(output: Output, look: FleetLook, service: Service) -> _Row:
    memory = sum(item.memory_bytes for item in service.host.devices)
    size = bytes_text(memory) if memory else ""
    used = sum(job.progress.peak_memory_bytes for job in look.jobs if job.service == service.name)
    return [
        short_name(service.name),
        state_cell(output, service_state(service)),
        ", ".join(item.id or item.kind for item in service.host.devices),
        "",
        "",
        "",
        f"{bytes_text(used)} of {size}" if used and size else size,
    ]


def _job(output: Output, look: FleetLook, job: Job) -> _Row:
    metrics = job.progress
    pace = look.steps_per_second.get(job.name)
    return [
        f"  {short_name(job.name)}",
        state_cell(output, state_name(job.state)),
        ", ".join(look.devices.get(job.name, ())),
        job_progress(job),
        f"{pace:.2f} step/s" if pace is not None and state_name(job.state) == "RUNNING" else "",
        count_text(metrics.tokens_per_second) if metrics.HasField("tokens_per_second") else "",
        bytes_text(metrics.peak_memory_bytes) if metrics.peak_memory_bytes else "",
    ]


def _deployment(output: Output, look: FleetLook, item: Deployment, service: str) -> list[_Row]:
    """Return a row for each replica of a deployment that a service holds."""
    name = short_name(item.name)
    count = look.requests.get(name)
    pace = look.requests_per_second.get(name)
    held = [replica for replica in item.replicas if replica.service == service]
    states = [DeploymentState.Name(replica.state).removeprefix("DEPLOYMENT_STATE_") for replica in held]
    if not item.replicas and item.service == service:
        states = [deployment_state(item)]
    titles = [f"{name} #{replica.number}" for replica in held] if len(item.replicas) > 1 else [name]
    return [
        [
            f"  {title}",
            state_cell(output, state),
            "",
            f"{count:,} requests" if count is not None else "",
            f"{pace:.2f} req/s" if pace is not None else "",
            "",
            "",
        ]
        for title, state in zip(titles, states, strict=False)
    ]


def _fields(message: Message) -> dict[str, object]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
