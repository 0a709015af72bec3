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
        local_blob_address: The same for callers of this machine.
        watermark: What new work leaves free of the disk with the state folder.
        start_time: When the coordinator was started, seconds since 1970.
        user_address: Where other machines reach the listener for people; empty if they do not.
        authority: What they check it by, PEM; empty without TLS.
    """

    blob_address: str
    local_blob_address: str
    watermark: Watermark
    start_time: float
    user_address: str = ""
    authority: str = ""

    def told_to(self, principal: Principal, *, is_local: bool) -> GetFleetResponse:
        """Return the answer to a caller. Asks the file system, so not on the event loop."""
        free, least = self.watermark.free_and_least()
        return GetFleetResponse(
            version=__version__,
            contract_versions=[CONTRACT_VERSION],
            schema_version=HEAD_REVISION,
            blob_address=self.local_blob_address if is_local else self.blob_address,
            disk_free_bytes=free,
            disk_watermark_bytes=least,
            start_time=timestamp_of(self.start_time),
            principal=principal.name,
            role=principal.role.name.lower(),
            user_address=self.user_address,
            authority=self.authority,
        )
