"""A trainer service that does no work: real sessions, fake runs.

Every assignment is reported RUNNING and then ended with an error that is never retried, so
that a benchmark of the coordinator sees whole lives of jobs at the pace of the coordinator.
"""

from __future__ import annotations

import asyncio

from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.run_pb2 import RunState
from tunefleet.fleet.v1.fleet_pb2 import Assignment, AttemptStatus, DesiredSet
from tunefleet.fleet.v1.fleet_service_pb2 import Hello, Welcome
from tunefleet.job.v1.event_pb2 import AttemptOutcome, DeviceRelease, DeviceReleased
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.errors import Reason, TunefleetError, status_from_error
from tunefleet_core.testing import samples
from tunefleet_services.control import Connection, ServiceSession

__all__ = ["IdleTrainer"]

_CONTRACT_VERSIONS = (CONTRACT_VERSION,)
_CAPABILITIES = (
    Capability.CAPABILITY_TRAIN,
    Capability.CAPABILITY_SFT,
    Capability.CAPABILITY_LORA,
    Capability.CAPABILITY_CHECKPOINT_RESUME,
)
_ERROR = status_from_error(TunefleetError(Reason.DATA_INVALID, "This trainer does no work."))


class IdleTrainer:
    """One service with a number of devices, on a session of its own; a connection may be shared."""

    def __init__(
        self,
        address: str,
        token: str,
        name: str,
        devices: int,
        *,
        ends: bool = True,
        connection: Connection | None = None,
    ) -> None:
        self._name = name
        self._devices = {f"gpu-{number}": "cuda" for number in range(devices)}
        self._ends = ends
        self.seen: dict[tuple[str, int], Assignment] = {}
        self.welcomed_once = asyncio.Event()
        self.connection = connection or Connection(address=address, token=token)
        self.session = ServiceSession(self.connection, self)

    def hello(self) -> Hello:
        """Say who attaches; nothing is held over from before."""
        backend = samples.backend("echo", capabilities=_CAPABILITIES)
        service = samples.service(f"services/{self._name}", devices=self._devices, backends=[backend])
        return Hello(service=service, contract_versions=_CONTRACT_VERSIONS)

    async def welcomed(self, welcome: Welcome) -> None:
        """Note that the session is open."""
        self.welcomed_once.set()

    async def desired(self, desired: DesiredSet) -> None:
        """Begin and end what is new, at once."""
        for assignment in desired.assignments:
            key = (assignment.job_uid, assignment.attempt)
            if key not in self.seen:
                self.seen[key] = assignment
                self.session.report_attempt(self._status(assignment))

    def _status(self, assignment: Assignment) -> AttemptStatus:
        status = AttemptStatus(
            job_uid=assignment.job_uid,
            attempt=assignment.attempt,
            fencing_number=assignment.fencing_number,
            state=RunState.RUN_STATE_RUNNING,
        )
        if self._ends:
            status.state = RunState.RUN_STATE_ENDED
            status.outcome = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
            status.error.CopyFrom(_ERROR)
            status.device_released.CopyFrom(
                DeviceReleased(device_release=DeviceRelease.DEVICE_RELEASE_BY_EXIT)
            )
        return status
