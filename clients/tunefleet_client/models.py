"""Models: what jobs produced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunefleet.model.v1 import model_service_pb2 as wire
from tunefleet.model.v1.model_pb2 import Model
from tunefleet.model.v1.model_service_pb2_grpc import ModelServiceStub
from tunefleet_client.calls import Connection
from tunefleet_client.names import resource_name
from tunefleet_client.pages import all_pages
from tunefleet_client.requests import new_request_id

if TYPE_CHECKING:
    from tunefleet.model.v1.model_service_pb2_grpc import ModelServiceAsyncStub

__all__ = ["Models"]


class Models:
    """The models of one project. Every method raises TunefleetError."""

    def __init__(self, connection: Connection, project: str) -> None:
        self._connection = connection
        self._project = project
        self._stub: ModelServiceAsyncStub = ModelServiceStub(connection.channel)

    async def get(self, name: str) -> Model:
        """Return a model."""
        request = wire.GetModelRequest(name=self._name(name))
        return (await self._connection.unary(self._stub.GetModel, request)).model

    async def list(self, *, limit: int | None = None) -> tuple[Model, ...]:
        """Return models, newest first."""

        async def page(size: int, token: str) -> tuple[Sequence[Model], str]:
            request = wire.ListModelsRequest(
                parent=f"projects/{self._project}", page_size=size, page_token=token
            )
            response = await self._connection.unary(self._stub.ListModels, request)
            return response.models, response.next_page_token

        return await all_pages(page, limit=limit)

    async def delete(self, name: str, *, allow_missing: bool = False, request_id: str | None = None) -> None:
        """Remove a model; its files go with the next prune.

        Raises:
            FailedPrecondition: STATE_CONFLICT while it is served or a job needs it.
        """
        request = wire.DeleteModelRequest(
            request_id=new_request_id(request_id), name=self._name(name), allow_missing=allow_missing
        )
        await self._connection.unary(self._stub.DeleteModel, request)

    def _name(self, name: str) -> str:
        return resource_name(name, collection="models", project=self._project)
