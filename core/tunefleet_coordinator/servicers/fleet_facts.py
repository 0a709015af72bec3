"""What GetFleet tells: versions, addresses and limits of this coordinator."""

from __future__ import annotations

from dataclasses import dataclass

from tunefleet.fleet.v1.fleet_service_pb2 import GetFleetResponse
from tunefleet_coordinator.security import Principal
from tunefleet_coordinator.store.schema import HEAD_REVISION
from tunefleet_core import CONTRACT_VERSION, __version__
from tunefleet_core.artifacts import Watermark
from tunefleet_core.timestamps import timestamp_of

__all__ = ["FleetFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFacts:
    """What does not change while a coordinator runs.

    Attributes:
        blob_address: Where the blobs process listens; empty if there is none.
        watermark: What new work leaves free of the disk with the state folder.
        start_time: When the coordinator was started, seconds since 1970.
    """

    blob_address: str
    watermark: Watermark
    start_time: float

    def told_to(self, principal: Principal) -> GetFleetResponse:
        """Return the answer to a caller. Asks the file system, so not on the event loop."""
        free, least = self.watermark.free_and_least()
        return GetFleetResponse(
            version=__version__,
            contract_versions=[CONTRACT_VERSION],
            schema_version=HEAD_REVISION,
            blob_address=self.blob_address,
            disk_free_bytes=free,
            disk_watermark_bytes=least,
            start_time=timestamp_of(self.start_time),
            principal=principal.name,
            role=principal.role.name.lower(),
        )
