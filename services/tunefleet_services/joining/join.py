"""Join a fleet: show the secret of a join token, get a certificate."""

from __future__ import annotations

import asyncio
import re
import socket
from importlib.util import find_spec
from pathlib import Path

import grpc.aio

from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.fleet.v1.fleet_service_pb2 import JoinRequest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.invitations import Invitation
from tunefleet_core.rpc import ChannelTls, error_from_rpc, explain_handshake, open_channel
from tunefleet_services.joining.membership import Membership, kind_of

__all__ = ["join_fleet", "usual_name"]

_SECONDS = 20.0
_LONGEST_NAME = 63


def usual_name(kind: str) -> str:
    """Return what a service of this machine is called unless somebody says otherwise."""
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().partition(".")[0].lower()).strip("-")
    return f"{kind}-{host}"[:_LONGEST_NAME].rstrip("-")


async def join_fleet(invitation: Invitation, state_folder: Path, *, kind: str, name: str) -> Membership:
    """Join and keep what came of it.

    Args:
        invitation: What `tunefleet fleet tokens create` has printed.
        state_folder: State folder of this machine.
        kind: `trainer`, `server` or `gateway`.
        name: The service to be.

    Raises:
        TunefleetError: What the coordinator answered, or why it could not be asked.
    """
    if find_spec("cryptography") is None:
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            "Joining needs the library `cryptography`, which is not installed here.",
            hint="pip install 'tunefleet[tls]'",
        )
    peer = f"The coordinator at {invitation.address}"
    membership = Membership(state_folder.absolute() / "members" / name)
    request = JoinRequest(
        secret=invitation.secret,
        service=f"services/{name}",
        kind=kind_of(kind),
        certificate_request=await asyncio.to_thread(membership.key_and_request),
    )
    async with open_channel(invitation.address, ChannelTls(authority=invitation.authority)) as channel:
        stub: fleet_grpc.FleetServiceAsyncStub = fleet_grpc.FleetServiceStub(channel)  # pyright: ignore[reportAssignmentType]  # one class, two faces
        try:
            joined = await stub.Join(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            typed = error_from_rpc(error, peer)
            if typed.reason is Reason.UNAVAILABLE:
                raise (
                    await asyncio.to_thread(explain_handshake, invitation.address, peer, invitation.authority)
                    or typed
                ) from error
            raise typed from error
    await asyncio.to_thread(
        membership.keep,
        name=name,
        kind=kind,
        certificate=joined.certificate,
        authority=joined.authority,
        service_address=joined.service_address,
        user_address=joined.user_address,
        user_authority=invitation.authority,
        expire_time=joined.expire_time.ToNanoseconds() / 1e9,
        hosts=joined.hosts,
    )
    return membership
