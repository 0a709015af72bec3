"""The command lines of the processes of a local fleet."""

from __future__ import annotations

import sys

from tunefleet_services.local.children import ChildSpec
from tunefleet_services.local.endpoints import Endpoints
from tunefleet_services.local.options import UpOptions

__all__ = ["AUTHORITY", "TRUST", "called_here", "coordinator_spec", "service_specs", "trainer_names"]

AUTHORITY = "authority"
TRUST = f"{AUTHORITY}/trust.pem"
_GRACE_SECONDS = 8.0
_STOP_GRACE_SECONDS = 15.0  # beyond the time to save: to end what did not, to tell, and to end itself


def called_here(options: UpOptions, address: str) -> str:
    """Return an address as programs of this machine call it."""
    host = options.local_host
    return f"{host}:{address.rpartition(':')[2]}" if host else address


def trainer_names(options: UpOptions) -> list[str]:
    """Return the names of the trainers, by which their folders go."""
    return ["trainer"] if options.trainers == 1 else [f"trainer-{n}" for n in range(1, options.trainers + 1)]


def coordinator_spec(options: UpOptions, endpoints: Endpoints) -> ChildSpec:
    """Return how to start the coordinator."""
    arguments = (
        "--state",
        str(options.state_folder.absolute()),
        "--user-address",
        endpoints.user,
        "--service-address",
        endpoints.service,
        "--lease-seconds",
        str(options.lease_seconds),
        "--blob-address",
        endpoints.blobs,
        *_coordinator_tls(options, endpoints),
    )
    return _child(options, "coordinator", "tunefleet_coordinator", arguments)


def _coordinator_tls(options: UpOptions, endpoints: Endpoints) -> list[str]:
    if not options.has_tls:
        return []
    words = ["--tls", "--member-address", endpoints.member, "--member-blob-address", endpoints.member_blobs]
    for name in options.public_names:
        words += ["--public-name", name]
    files = (("--tls-cert", options.tls_cert), ("--tls-key", options.tls_key), ("--tls-ca", options.tls_ca))
    for option, file in files:
        if file is not None:
            words += [option, str(file.absolute())]
    return words


def _door_tls(options: UpOptions) -> list[str]:
    """Return what a listener for people shows: the operator's certificate, or that of the fleet."""
    if not options.has_tls:
        return []
    folder = options.state_folder.absolute() / AUTHORITY
    certificate, key = options.tls_cert or folder / "server.pem", options.tls_key or folder / "server.key"
    return ["--tls-cert", str(certificate.absolute()), "--tls-key", str(key.absolute())]


def _gateway_tls(options: UpOptions, endpoints: Endpoints) -> list[str]:
    if not options.has_tls:
        return []
    folder = options.state_folder.absolute()
    words = [
        *_door_tls(options),
        "--public-name",
        options.told_host,
        "--user-authority",
        str(folder / TRUST),
        "--relay-port",
        endpoints.relay.rpartition(":")[2],
        "--relay-certificates",
        str(folder / AUTHORITY),
    ]
    for name in dict.fromkeys((*options.public_names, options.host)):
        words += ["--allow-host", name]
    return words


def service_specs(options: UpOptions, endpoints: Endpoints) -> list[ChildSpec]:
    """Return how to start everything else."""
    state = options.state_folder.absolute()
    common = (
        "--address",
        endpoints.service,
        "--token-file",
        str(state / "service.token"),
        "--state",
        str(state),
    )
    lease = ("--lease-seconds", str(options.lease_seconds))
    warm = () if options.warm else ("--no-warm",)
    stop = ("--stop-seconds", str(options.stop_seconds))
    servers = ["server", *(f"server-{n}" for n in range(2, options.servers + 1))]
    gateway_host, _, gateway_port = endpoints.gateway.rpartition(":")
    return [
        _child(
            options,
            "blobs",
            "tunefleet_coordinator.blobs",
            (
                "--state",
                str(state),
                "--address",
                endpoints.blobs,
                *_door_tls(options),
                *(("--member-address", endpoints.member_blobs) if endpoints.member_blobs else ()),
            ),
        ),
        *(
            _child(
                options,
                name,
                "tunefleet_services.trainer",
                (*common, *lease, *warm, *stop, "--name", name),
                grace_seconds=options.stop_seconds + _STOP_GRACE_SECONDS,
            )
            for name in trainer_names(options)
        ),
        *(
            _child(options, name, "tunefleet_services.server", (*common, *lease, "--name", name))
            for name in servers
        ),
        _child(
            options,
            "gateway",
            "tunefleet_services.gateway",
            (
                *common,
                "--name",
                "gateway",
                "--host",
                gateway_host,
                "--port",
                gateway_port,
                "--inference-port",
                endpoints.inference.rpartition(":")[2],
                "--user-address",
                called_here(options, endpoints.user),
                *_gateway_tls(options, endpoints),
                *options.gateway_options,
            ),
        ),
    ]


def _child(
    options: UpOptions,
    name: str,
    module: str,
    arguments: tuple[str, ...],
    *,
    grace_seconds: float = _GRACE_SECONDS,
) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=(sys.executable, "-m", module, *arguments),
        log=options.state_folder.absolute() / "logs" / f"{name}.log",
        grace_seconds=grace_seconds,
    )
