"""Run the coordinator: `python -m tunefleet_coordinator --state DIR`."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

from tunefleet_coordinator.pruning import BLOB_GRACE_SECONDS
from tunefleet_coordinator.server import CERTIFICATE_SECONDS, CoordinatorOptions, serve
from tunefleet_coordinator.tls import TlsOptions
from tunefleet_core.process import run_process

_GARBAGE_AFTER = 20_000
"""Objects between two looks for garbage: a world is long-lived rows, and looking through them is what
made the slowest submits slow (99th percentile 75 ms, 42 with this; Python looks every 700)."""


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="state folder")
    parser.add_argument("--user-address", default="127.0.0.1:0", help="listener for people and programs")
    parser.add_argument("--service-address", default="127.0.0.1:0", help="listener for services")
    parser.add_argument("--lease-seconds", type=float, default=10.0)
    parser.add_argument("--blob-address", default="", help="where the blobs process listens")
    parser.add_argument(
        "--least-free-bytes", type=int, help="what new work leaves free; default: 1 GiB or 2 %% of the disk"
    )
    parser.add_argument(
        "--blob-grace-seconds",
        type=float,
        default=BLOB_GRACE_SECONDS,
        help="how long a prune leaves a blob that nothing names",
    )
    parser.add_argument(
        "--tls", action="store_true", help="TLS on the users' listener; demanded beyond loopback"
    )
    parser.add_argument(
        "--public-name",
        action="append",
        default=[],
        metavar="NAME",
        help="what other machines call this one, without port; may be repeated, the first is told them",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="own certificate of the users' listener")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument("--tls-ca", type=Path, metavar="PEM", help="what clients check it by")
    parser.add_argument("--member-address", default="", help="listener for services of other machines")
    parser.add_argument("--member-blob-address", default="", help="where the blobs process listens for them")
    parser.add_argument(
        "--certificate-seconds",
        type=float,
        default=CERTIFICATE_SECONDS,
        help="how long certificates of services are good",
    )
    arguments = parser.parse_args()
    options = CoordinatorOptions(
        state_folder=arguments.state.absolute(),
        user_address=arguments.user_address,
        service_address=arguments.service_address,
        lease_seconds=arguments.lease_seconds,
        blob_address=arguments.blob_address,
        least_free_bytes=arguments.least_free_bytes,
        blob_grace_seconds=arguments.blob_grace_seconds,
        tls=TlsOptions(
            public_names=tuple(arguments.public_name),
            certificate=arguments.tls_cert,
            key=arguments.tls_key,
            trust=arguments.tls_ca,
        )
        if arguments.tls
        else None,
        member_address=arguments.member_address,
        member_blob_address=arguments.member_blob_address,
        certificate_seconds=arguments.certificate_seconds,
    )
    gc.set_threshold(_GARBAGE_AFTER, 50, 50)
    run_process(lambda group: serve(options, group))


if __name__ == "__main__":
    main()
