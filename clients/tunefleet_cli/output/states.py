"""States as words and cells: enum names without their prefixes, with a symbol for people."""

from __future__ import annotations

from rich.text import Text

from tunefleet.deployment.v1.deployment_pb2 import ContractState, Deployment, DeploymentState
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind, ServiceState
from tunefleet.fleet.v1.fleet_service_pb2 import JoinToken
from tunefleet_cli.output.events import download_text
from tunefleet_cli.output.output import Output
from tunefleet_cli.output.theme import state_text

__all__ = [
    "contract_cell",
    "deployment_state",
    "fetches_text",
    "is_settling",
    "ready_replicas",
    "service_kind",
    "service_state",
    "state_cell",
]


def state_cell(output: Output, state: str) -> Text | str:
    """Return a state with its symbol for people, as a bare word for pipes."""
    return state_text(state) if output.is_human else state


def deployment_state(deployment: Deployment) -> str:
    """Return a deployment's state without its prefix, such as `READY`."""
    return DeploymentState.Name(deployment.state).removeprefix("DEPLOYMENT_STATE_")


def ready_replicas(deployment: Deployment) -> str:
    """Return how many of the replicas that are wanted take traffic, such as `2 of 3`; empty: not known."""
    if not deployment.replicas:
        return ""
    ready = sum(item.state == DeploymentState.DEPLOYMENT_STATE_READY for item in deployment.replicas)
    return f"{ready} of {deployment.spec.replicas}"


def fetches_text(deployment: Deployment) -> str:
    """Return how far the replicas are with what they fetch, each once; empty: they fetch nothing."""
    texts = [download_text(item.download) for item in deployment.replicas if item.HasField("download")]
    return "; ".join(dict.fromkeys(texts))


def is_settling(deployment: Deployment) -> bool:
    """Say whether more of a deployment may take traffic in a moment."""
    state = deployment_state(deployment)
    on_their_way = (
        DeploymentState.DEPLOYMENT_STATE_PREPARING,
        DeploymentState.DEPLOYMENT_STATE_STARTING,
    )
    is_loading = any(replica.state in on_their_way for replica in deployment.replicas)
    return state in ("PENDING", "PREPARING", "STARTING") or (state == "DEGRADED" and is_loading)


def service_kind(service: Service | JoinToken) -> str:
    """Return what a service does, such as `trainer`."""
    return ServiceKind.Name(service.kind).removeprefix("SERVICE_KIND_").lower()


def service_state(service: Service) -> str:
    """Return a service's state without its prefix; DRAINING or STOPPING if it is there for old work alone."""
    name = ServiceState.Name(service.state).removeprefix("SERVICE_STATE_")
    if name != "ATTACHED":
        return name
    return "STOPPING" if service.is_stopping else "DRAINING" if service.is_draining else name


def contract_cell(output: Output, state: ContractState.ValueType) -> Text | str:
    """Return one half of the contract's result; empty if nothing was checked."""
    name = ContractState.Name(state).removeprefix("CONTRACT_STATE_")
    return "" if name == "UNSPECIFIED" else state_cell(output, name)
