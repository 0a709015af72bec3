"""CatalogService."""

from __future__ import annotations

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.catalog.v1 import catalog_service_pb2 as pb
from tunefleet.catalog.v1 import catalog_service_pb2_grpc as catalog_grpc
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_coordinator.kernel import Kernel
from tunefleet_coordinator.servicers.combinations import Combinations
from tunefleet_coordinator.servicers.formats import listed_formats
from tunefleet_coordinator.servicers.pages import page_of
from tunefleet_core.catalog import Family
from tunefleet_core.lifecycle import ServiceRow
from tunefleet_core.plugins import PluginSet
from tunefleet_core.rpc import RpcContext

__all__ = ["CatalogServicer"]


class CatalogServicer(catalog_grpc.CatalogServiceServicer):
    """Says what is installed where; the docs of each method are in the proto."""

    def __init__(self, kernel: Kernel, plugins: PluginSet) -> None:
        self._kernel = kernel
        self._plugins = plugins
        self._combinations = Combinations(plugins)

    async def ListPlugins(
        self, request: pb.ListPluginsRequest, context: RpcContext
    ) -> pb.ListPluginsResponse:
        services = await self._kernel.observe(lambda world: world.services())
        backends = _backends([row for row in services if row.is_attached])
        plugins = [*backends, *self._families(), *self._broken(backends)]
        page = page_of(plugins, request, lambda plugin: (plugin.kind, plugin.name))
        return pb.ListPluginsResponse(plugins=page.items, next_page_token=page.next_page_token)

    async def ListBackends(
        self, request: pb.ListBackendsRequest, context: RpcContext
    ) -> pb.ListBackendsResponse:
        services = await self._kernel.observe(lambda world: world.services())
        found = _environments([row for row in services if row.is_attached])
        page = page_of(found.items(), request, lambda item: item[0])
        backends = [backend for _, backend in page.items]
        return pb.ListBackendsResponse(backends=backends, next_page_token=page.next_page_token)

    async def ListFamilies(
        self, request: pb.ListFamiliesRequest, context: RpcContext
    ) -> pb.ListFamiliesResponse:
        brought_by = {name: item.distribution for item in self._plugins.records for name in item.families}
        families = [
            _family(family, distribution=brought_by.get(family.name, ""))
            for family in self._plugins.families()
        ]
        page = page_of(families, request, lambda family: (family.name,))
        return pb.ListFamiliesResponse(families=page.items, next_page_token=page.next_page_token)

    async def ListFormats(
        self, request: pb.ListFormatsRequest, context: RpcContext
    ) -> pb.ListFormatsResponse:
        services = await self._kernel.observe(lambda world: world.services())
        formats = listed_formats(self._plugins, [row for row in services if row.is_attached])
        page = page_of(formats, request, lambda item: (item.name,))
        return pb.ListFormatsResponse(formats=page.items, next_page_token=page.next_page_token)

    async def ListCombinations(
        self, request: pb.ListCombinationsRequest, context: RpcContext
    ) -> pb.ListCombinationsResponse:
        services = await self._kernel.observe(lambda world: world.services())
        page = await self._combinations.page([row for row in services if row.is_attached], request)
        return pb.ListCombinationsResponse(combinations=page.items, next_page_token=page.next_page_token)

    def _families(self) -> list[pb.Plugin]:
        return [
            pb.Plugin(
                name=family.name,
                kind="family",
                status="ACTIVE",
                summary=f"model types {', '.join(family.model_types)}",
            )
            for family in sorted(self._plugins.families(), key=lambda item: item.name)
        ]

    def _broken(self, backends: list[pb.Plugin]) -> list[pb.Plugin]:
        listed = {plugin.name for plugin in backends}
        return [
            pb.Plugin(
                name=record.name,
                kind="other",
                distribution=record.distribution,
                status=record.status,
                error=record.error,
                hint=record.hint,
            )
            for record in self._plugins.failed()
            if record.name not in listed
        ]


def _family(family: Family, *, distribution: str) -> pb.Family:
    forms = {"": family.parsers}
    for form in family.variants:
        forms[form.name] = family.parsers if form.parsers is None else form.parsers
    return pb.Family(
        name=family.name,
        distribution=distribution,
        model_types=family.model_types,
        target_modules=family.target_suffixes,
        stop_tokens=family.stop_tokens,
        chat_template=family.chat_template,
        parsers=[
            pb.EngineParsers(
                engine=engine, form=form, tool_parser=parsers.tool, reasoning_parser=parsers.reasoning
            )
            for form, engines in forms.items()
            for engine, parsers in sorted(engines.items())
        ],
        layer_classes=family.layer_classes,
        frozen_parts=family.frozen_parts,
        expert_parameters=family.expert_parameters,
        thinking=family.thinking,
        tool_format=family.tool_format,
        licence=family.licence,
        traps=family.traps,
        unsupported_types=family.unsupported_types,
    )


def _backends(services: list[ServiceRow]) -> list[pb.Plugin]:
    found: dict[str, pb.Plugin] = {}
    for row in services:
        for installed in Service.FromString(row.description).backends:
            manifest = installed.manifest
            plugin = found.setdefault(
                manifest.name,
                pb.Plugin(
                    name=manifest.name,
                    kind="backend",
                    distribution=manifest.plugin,
                    status=installed.status,
                    error=installed.error,
                    hint=installed.hint,
                    summary=manifest.summary,
                    capabilities=[
                        Capability.Name(item).removeprefix("CAPABILITY_") for item in manifest.capabilities
                    ],
                ),
            )
            plugin.services.append(row.name)
    return [found[name] for name in sorted(found)]


def _environments(services: list[ServiceRow]) -> dict[tuple[str, str, str], pb.Backend]:
    """Return every backend by name, environment and status: two hosts may have other versions of it."""
    found: dict[tuple[str, str, str], pb.Backend] = {}
    for row in services:
        for installed in Service.FromString(row.description).backends:
            key = (installed.manifest.name, installed.environment_digest, installed.status)
            found.setdefault(key, pb.Backend(installed=installed)).services.append(row.name)
    return found
