"""The servicers of FakeCoordinator for the fleet, its tokens, the catalogue and inference."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from tunefleet.catalog.v1 import catalog_service_pb2 as catalog
from tunefleet.catalog.v1.catalog_service_pb2_grpc import CatalogServiceServicer
from tunefleet.fleet.v1 import fleet_service_pb2 as fleet
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceState
from tunefleet.fleet.v1.fleet_service_pb2_grpc import FleetServiceServicer
from tunefleet.inference.v1 import inference_service_pb2 as inference
from tunefleet.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from tunefleet_client.testing.fake_servicers import Context, missing, page
from tunefleet_core.errors import Reason, TunefleetError

if TYPE_CHECKING:
    from tunefleet_client.testing.fake_coordinator import FakeCoordinator

__all__ = ["FakeCatalog", "FakeFleet", "FakeInference"]


class FakeFleet(FleetServiceServicer):
    """The part of FleetService that people call."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake

    async def GetFleet(self, request: fleet.GetFleetRequest, context: Context) -> fleet.GetFleetResponse:
        await self._fake.admit(request, context)
        return self._fake.fleet

    async def GetService(
        self, request: fleet.GetServiceRequest, context: Context
    ) -> fleet.GetServiceResponse:
        await self._fake.admit(request, context)
        return fleet.GetServiceResponse(service=await self._service(request.name, context))

    async def ListServices(
        self, request: fleet.ListServicesRequest, context: Context
    ) -> fleet.ListServicesResponse:
        await self._fake.admit(request, context)
        services, token = page(self._fake.services, request.page_size, request.page_token)
        return fleet.ListServicesResponse(services=services, next_page_token=token)

    async def DrainService(
        self, request: fleet.DrainServiceRequest, context: Context
    ) -> fleet.DrainServiceResponse:
        await self._fake.admit(request, context)
        found = await self._service(request.name, context)
        found.is_draining = True
        return fleet.DrainServiceResponse(service=found)

    async def UndrainService(
        self, request: fleet.UndrainServiceRequest, context: Context
    ) -> fleet.UndrainServiceResponse:
        await self._fake.admit(request, context)
        found = await self._service(request.name, context)
        found.is_draining = False
        return fleet.UndrainServiceResponse(service=found)

    async def RemoveService(
        self, request: fleet.RemoveServiceRequest, context: Context
    ) -> fleet.RemoveServiceResponse:
        await self._fake.admit(request, context)
        found = await self._service(request.name, context)
        if found.state != ServiceState.SERVICE_STATE_LOST:
            conflict = TunefleetError(
                Reason.STATE_CONFLICT,
                f"Service '{found.name}' is heard from.",
                hint="Stop it first.",
                metadata={"name": found.name},
            )
            await self._fake.abort(context, conflict)
        self._fake.services.remove(found)
        return fleet.RemoveServiceResponse()

    async def ListJoinTokens(
        self, request: fleet.ListJoinTokensRequest, context: Context
    ) -> fleet.ListJoinTokensResponse:
        await self._fake.admit(request, context)
        return fleet.ListJoinTokensResponse()

    async def CreateToken(
        self, request: fleet.CreateTokenRequest, context: Context
    ) -> fleet.CreateTokenResponse:
        await self._fake.admit(request, context)
        name = f"tokens/{request.token_id}"
        if self._fake.token_requests.get(request.request_id) == name:
            return fleet.CreateTokenResponse(token=self._fake.tokens[name])  # the secret is told once
        if name in self._fake.tokens:
            taken = TunefleetError(Reason.TOKEN_EXISTS, f"Token '{request.token_id}' exists.")
            await self._fake.abort(context, taken)
        token = fleet.Token(name=name, role=request.role, project=request.project, creator="admin")
        self._fake.tokens[name] = token
        self._fake.token_requests[request.request_id] = name
        if self._fake.lost_answers > 0:
            self._fake.lost_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return fleet.CreateTokenResponse(token=token, secret=f"tf-{request.token_id}")

    async def ListTokens(
        self, request: fleet.ListTokensRequest, context: Context
    ) -> fleet.ListTokensResponse:
        await self._fake.admit(request, context)
        tokens, token = page(self._fake.tokens.values(), request.page_size, request.page_token)
        return fleet.ListTokensResponse(tokens=tokens, next_page_token=token)

    async def RevokeToken(
        self, request: fleet.RevokeTokenRequest, context: Context
    ) -> fleet.RevokeTokenResponse:
        await self._fake.admit(request, context)
        if self._fake.tokens.pop(request.name, None) is None and not request.allow_missing:
            await self._fake.abort(context, missing(Reason.TOKEN_NOT_FOUND, "token", request.name))
        return fleet.RevokeTokenResponse()

    async def _service(self, name: str, context: Context) -> Service:
        for service in self._fake.services:
            if service.name == name:
                return service
        return await self._fake.abort(context, missing(Reason.SERVICE_NOT_FOUND, "service", name))


class FakeCatalog(CatalogServiceServicer):
    """CatalogService from lists."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake

    async def ListPlugins(
        self, request: catalog.ListPluginsRequest, context: Context
    ) -> catalog.ListPluginsResponse:
        await self._fake.admit(request, context)
        plugins, token = page(self._fake.plugins, request.page_size, request.page_token)
        return catalog.ListPluginsResponse(plugins=plugins, next_page_token=token)

    async def ListBackends(
        self, request: catalog.ListBackendsRequest, context: Context
    ) -> catalog.ListBackendsResponse:
        await self._fake.admit(request, context)
        backends, token = page(self._fake.backends, request.page_size, request.page_token)
        return catalog.ListBackendsResponse(backends=backends, next_page_token=token)

    async def ListFamilies(
        self, request: catalog.ListFamiliesRequest, context: Context
    ) -> catalog.ListFamiliesResponse:
        await self._fake.admit(request, context)
        families, token = page(self._fake.families, request.page_size, request.page_token)
        return catalog.ListFamiliesResponse(families=families, next_page_token=token)

    async def ListFormats(
        self, request: catalog.ListFormatsRequest, context: Context
    ) -> catalog.ListFormatsResponse:
        await self._fake.admit(request, context)
        formats, token = page(self._fake.formats, request.page_size, request.page_token)
        return catalog.ListFormatsResponse(formats=formats, next_page_token=token)

    async def ListCombinations(
        self, request: catalog.ListCombinationsRequest, context: Context
    ) -> catalog.ListCombinationsResponse:
        await self._fake.admit(request, context)
        known = [
            item
            for item in self._fake.combinations
            if (not request.families or item.family in request.families)
            and (not request.engines or item.engine in request.engines)
        ]
        combinations, token = page(known, request.page_size, request.page_token)
        return catalog.ListCombinationsResponse(combinations=combinations, next_page_token=token)


class FakeInference(InferenceServiceServicer):
    """A gateway that answers with the words of `answer`, for every deployment there is."""

    def __init__(self, fake: FakeCoordinator) -> None:
        self._fake = fake

    async def Chat(
        self, request: inference.ChatRequest, context: Context
    ) -> AsyncIterator[inference.ChatResponse]:
        await self._fake.admit(request, context)
        await self._check(request.model, context)
        words = self._fake.answer.split(" ")
        for index, word in enumerate(words):
            yield inference.ChatResponse(text=word if index == 0 else f" {word}")
        usage = inference.Usage(prompt_tokens=len(request.messages), completion_tokens=len(words))
        yield inference.ChatResponse(finish_reason="stop", usage=usage)

    async def Tokenize(
        self, request: inference.TokenizeRequest, context: Context
    ) -> inference.TokenizeResponse:
        await self._fake.admit(request, context)
        await self._check(request.model, context)
        turns = [part.text for turn in request.conversation.messages for part in turn.content]
        return inference.TokenizeResponse(token_ids=(request.text or "".join(turns)).encode())

    async def _check(self, model: str, context: Context) -> None:
        if not any(name.endswith(f"/{model}") for name in self._fake.deployments):
            await self._fake.abort(context, missing(Reason.DEPLOYMENT_NOT_FOUND, "deployment", model))
