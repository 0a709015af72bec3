"""Open a client: find the coordinator, secure the channel, offer the nouns."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tunefleet.inference.v1.inference_service_pb2 import ChatResponse
from tunefleet_client.artifacts import Artifacts
from tunefleet_client.calls import Backoff, Connection
from tunefleet_client.catalog import Catalog
from tunefleet_client.channels import Channels, read_authority
from tunefleet_client.datasets import Datasets
from tunefleet_client.deployments import Deployments
from tunefleet_client.fleet import Fleet
from tunefleet_client.inference import CHAT_DEADLINE_SECONDS, Inference, Messages
from tunefleet_client.jobs import Jobs
from tunefleet_client.join_tokens import JoinTokens
from tunefleet_client.models import Models
from tunefleet_client.state import find_target
from tunefleet_client.tokens import Tokens
from tunefleet_client.transfers import Transfers

__all__ = ["Client", "connect"]


class Client:
    """The nouns of one coordinator and project. Made by `connect`."""

    def __init__(self, connection: Connection, *, project: str) -> None:
        self.address = connection.address
        self.project = project
        self.jobs = Jobs(connection, project)
        self.models = Models(connection, project)
        self.deployments = Deployments(connection, project)
        self.fleet = Fleet(connection)
        self.catalog = Catalog(connection)
        self.tokens = Tokens(connection)
        self.join_tokens = JoinTokens(connection)
        self.transfers = Transfers(connection, self._blob_address)
        self.artifacts = Artifacts(connection, self.models, self.transfers)
        self.datasets = Datasets(connection, project, self.transfers)
        self.inference = Inference(connection, self.fleet)

    def chat(
        self,
        model: str,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        deadline_seconds: float = CHAT_DEADLINE_SECONDS,
    ) -> AsyncGenerator[ChatResponse]:
        """Ask a deployment, as `inference.chat` does; yields the answer piece by piece."""
        return self.inference.chat(
            model,
            messages,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
            deadline_seconds=deadline_seconds,
        )

    async def _blob_address(self) -> str:
        return (await self.fleet.info()).blob_address


@asynccontextmanager
async def connect(
    address: str | None = None,
    token: str | None = None,
    state_folder: str | Path | None = None,
    *,
    ca: str | Path | None = None,
    authority: bytes | None = None,
    project: str = "default",
    backoff: Backoff | None = None,
) -> AsyncGenerator[Client]:
    """Open a client of a coordinator.

    Address and token come from the arguments, else from TUNEFLEET_ADDRESS and
    TUNEFLEET_TOKEN, else from what `tunefleet login` kept, else from the state folder
    that `tunefleet up` wrote.

    Args:
        address: `host:port`.
        token: API token.
        state_folder: Instead of TUNEFLEET_STATE or the default folder.
        ca: PEM file of the certificate authority (else TUNEFLEET_CA); turns TLS on.
            Needed for every address that is not loopback, and known for those of a login
            or a state folder.
        authority: The same in hand, PEM, for programs that have no file.
        project: The project of short names.
        backoff: Waits between tries.

    Raises:
        TunefleetError: UNAVAILABLE or TOKEN_INVALID if nothing is known to connect
            to, FIELD_INVALID if a token would travel in the clear.
    """
    target = find_target(address, token, state_folder)
    given = ca or (None if authority else os.environ.get("TUNEFLEET_CA"))
    channels = Channels(read_authority(given) if given else authority or target.authority)
    connection = Connection(
        address=target.address, token=target.token, channels=channels, backoff=backoff or Backoff()
    )
    try:
        yield Client(connection, project=project)
    finally:
        await channels.close()
