"""Open a client: find the coordinator, secure the channel, offer the nouns.

Sync face of `tunefleet_client.client`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Self

from tunefleet.inference.v1.inference_service_pb2 import ChatResponse
from tunefleet_client import client as _async
from tunefleet_client.calls import Backoff
from tunefleet_client.inference import CHAT_DEADLINE_SECONDS, Messages
from tunefleet_client.sync.artifacts import Artifacts
from tunefleet_client.sync.catalog import Catalog
from tunefleet_client.sync.datasets import Datasets
from tunefleet_client.sync.deployments import Deployments
from tunefleet_client.sync.fleet import Fleet
from tunefleet_client.sync.inference import Inference
from tunefleet_client.sync.jobs import Jobs
from tunefleet_client.sync.join_tokens import JoinTokens
from tunefleet_client.sync.models import Models
from tunefleet_client.sync.session import Session
from tunefleet_client.sync.tokens import Tokens
from tunefleet_client.sync.transfers import Transfers

__all__ = ["Client", "connect"]


class Client:
    """The nouns of one coordinator and project. Made by `connect`; close it, or use it as a context."""

    def __init__(self, session: Session[_async.Client]) -> None:
        self._session = session
        self._inner = session.inner
        self.address = self._inner.address
        self.project = self._inner.project
        self.jobs = Jobs(self._session, self._inner.jobs)
        self.models = Models(self._session, self._inner.models)
        self.deployments = Deployments(self._session, self._inner.deployments)
        self.fleet = Fleet(self._session, self._inner.fleet)
        self.catalog = Catalog(self._session, self._inner.catalog)
        self.tokens = Tokens(self._session, self._inner.tokens)
        self.join_tokens = JoinTokens(self._session, self._inner.join_tokens)
        self.transfers = Transfers(self._session, self._inner.transfers)
        self.artifacts = Artifacts(self._session, self._inner.artifacts)
        self.datasets = Datasets(self._session, self._inner.datasets)
        self.inference = Inference(self._session, self._inner.inference)

    def close(self) -> None:
        """End calls under way and let go of the coordinator. Closing twice is harmless."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
    ) -> Generator[ChatResponse]:
        """Ask a deployment, as `inference.chat` does; yields the answer piece by piece."""
        return self._session.iterate(
            self._inner.chat(
                model,
                messages,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                stop=stop,
                deadline_seconds=deadline_seconds,
            )
        )


def connect(
    address: str | None = None,
    token: str | None = None,
    state_folder: str | Path | None = None,
    *,
    ca: str | Path | None = None,
    authority: bytes | None = None,
    project: str = "default",
    backoff: Backoff | None = None,
) -> Client:
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
    return Client(
        Session(
            _async.connect(
                address, token, state_folder, ca=ca, authority=authority, project=project, backoff=backoff
            )
        )
    )
