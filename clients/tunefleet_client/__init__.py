"""The Python SDK: one client over the gRPC API of a coordinator.

Start reading at `client.py`; `jobs.py` is the noun most people want.

Example:
    >>> async with connect() as client:  # doctest: +SKIP
    ...     job = await client.jobs.create(spec)
    ...     async for change in client.jobs.watch(job.name):
    ...         print(change)
"""

from tunefleet_client.client import Client, connect
from tunefleet_client.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from tunefleet_client.inference import Messages
from tunefleet_client.names import resource_name, short_name
from tunefleet_client.specs import JobSource, read_spec
from tunefleet_client.state import Endpoints, Target, find_target, state_folder
from tunefleet_client.watch import TERMINAL_STATES, JobChange, is_terminal
from tunefleet_client.watch_deployment import DeploymentChange
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

__all__ = [
    "connect",
    "Client",
    "DeploymentChange",
    "JobChange",
    "JobSource",
    "Messages",
    "read_spec",
    "TERMINAL_STATES",
    "is_terminal",
    "Endpoints",
    "Target",
    "find_target",
    "state_folder",
    "resource_name",
    "short_name",
    "TunefleetError",
    "Reason",
    "FieldViolation",
    "InvalidArgument",
    "Unauthenticated",
    "PermissionDenied",
    "NotFound",
    "AlreadyExists",
    "FailedPrecondition",
    "Aborted",
    "ResourceExhausted",
    "OutOfRange",
    "Unimplemented",
    "DeadlineExceeded",
    "Unavailable",
    "Internal",
]
