"""Run the coordinator: `python -m tunefleet_coordinator --state DIR`."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

from tunefleet_coordinator.pruning import BLOB_GRACE_SECONDS
from tunefleet_coordinator.server import CoordinatorOptions, serve
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
    arguments = parser.parse_args()
    options = CoordinatorOptions(
        state_folder=arguments.state.absolute(),
        user_address=arguments.user_address,
        service_address=arguments.service_address,
        lease_seconds=arguments.lease_seconds,
        blob_address=arguments.blob_address,
        least_free_bytes=arguments.least_free_bytes,
        blob_grace_seconds=arguments.blob_grace_seconds,
    )
    gc.set_threshold(_GARBAGE_AFTER, 50, 50)
    run_process(lambda group: serve(options, group))


if __name__ == "__main__":
    main()
