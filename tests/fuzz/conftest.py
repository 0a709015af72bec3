"""Every process that answers gRPC, for the whole module, with TLS where it can be; hypothesis asks them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fuzzed_fleet import FuzzedFleet, await_attached, await_file, await_serving, free_addresses


@pytest.fixture(scope="module")
def fleet() -> Iterator[FuzzedFleet]:
    """A coordinator, its blobs process, a gateway and a contract host, with TLS where others reach them."""
    pytest.importorskip("cryptography", reason="TLS needs cryptography: pip install 'tunefleet[tls]'")
    root = Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))
    user, service, blobs, member, inference, relay, openai, member_blobs = free_addresses(8)
    running = FuzzedFleet(
        root=root,
        user=user,
        service=service,
        blobs=blobs,
        member=member,
        inference=inference,
        relay=relay,
        openai=openai,
    )
    state = ("--state", str(running.state))
    try:
        running.start(
            "coordinator",
            "tunefleet_coordinator",
            *state,
            *("--user-address", user, "--service-address", service, "--lease-seconds", "2"),
            *("--tls", "--public-name", "localhost", "--member-address", member),
            *("--blob-address", blobs, "--member-blob-address", member_blobs),
        )
        await_file(running, "coordinator", running.state / "authority" / "trust.pem")
        await_serving(running, "coordinator", user, running.authority)
        folder = running.state / "authority"
        shown = ("--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key"))
        running.start("blobs", "tunefleet_coordinator.blobs", *state, "--address", blobs, *shown)
        running.start(
            "gateway",
            "tunefleet_services.gateway",
            *state,
            *("--address", service, "--token-file", str(running.state / "service.token")),
            *("--port", openai.rpartition(":")[2], "--inference-port", inference.rpartition(":")[2]),
            *("--relay-port", relay.rpartition(":")[2], "--relay-certificates", str(folder)),
            *("--user-address", user, "--user-authority", str(folder / "trust.pem")),
            *("--public-name", "localhost", *shown),
        )
        running.start(
            "host",
            "tunefleet_core.worker.host",
            *("--backend", "echo", "--socket", str(root / "host"), "--lease-seconds", "600"),
            *("--owner-pid", str(os.getpid())),
        )
        await_file(running, "host", root / "host")
        for kind in ("trainer", "server"):
            running.start(
                kind,
                f"tunefleet_services.{kind}",
                *state,
                *("--address", service, "--token-file", str(running.state / "service.token")),
                *("--name", kind, "--lease-seconds", "2"),
            )
        await_attached(running, "gateway", "trainer", "server")
        yield running
    finally:
        running.end()
        shutil.rmtree(root, ignore_errors=True)
