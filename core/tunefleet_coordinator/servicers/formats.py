"""The quantisation formats as the API lists them: what plugins say, and who in the fleet does what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.catalog.v1 import catalog_service_pb2 as pb
from tunefleet.fleet.v1.fleet_pb2 import Service
from tunefleet_core.backend import trained_formats
from tunefleet_core.catalog import Format
from tunefleet_core.lifecycle import ServiceRow
from tunefleet_core.plugins import PluginSet

__all__ = ["listed_formats"]

_ACTIVE = "ACTIVE"


def listed_formats(plugins: PluginSet, services: Iterable[ServiceRow]) -> list[pb.Format]:
    """Return every known format.

    Args:
        plugins: The coordinator's plugins.
        services: The attached services, whose backends train on formats, write and serve them.
    """
    manifests = [
        installed.manifest
        for row in services
        for installed in Service.FromString(row.description).backends
        if installed.status == _ACTIVE
    ]
    brought_by = {name: record.distribution for record in plugins.records for name in record.formats}
    return [
        _listed(item, manifests, distribution=brought_by.get(item.name, "")) for item in plugins.formats()
    ]


def _listed(item: Format, manifests: Sequence[BackendManifest], *, distribution: str) -> pb.Format:
    return pb.Format(
        name=item.name,
        distribution=distribution,
        summary=item.summary,
        bits_per_weight=item.bits_per_weight,
        variants=[variant.name for variant in item.variants if variant.name],
        trained_by=sorted({each.name for each in manifests if item.name in trained_formats(each)}),
        exported_by=sorted({each.name for each in manifests if item.name in each.exported_formats}),
        served_by=sorted(
            {*item.engines, *(each.name for each in manifests if item.name in each.served_formats)}
        ),
    )
