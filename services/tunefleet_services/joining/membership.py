"""What a service of another machine keeps: its key, its certificate, and where its fleet is.

One folder per service, `STATE/members/NAME`, its owner's alone. The key is made here and never leaves it,
so a restart needs no token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from tunefleet.fleet.v1.fleet_pb2 import ServiceKind
from tunefleet_core.artifacts import write_whole_file
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import ChannelTls, ListenerTls

__all__ = ["Membership", "find_membership", "memberships"]

_KEY, _CERTIFICATE, _RECORD = "key.pem", "certificate.pem", "member.json"
_AUTHORITY, _USER_AUTHORITY = "authority.pem", "user-authority.pem"
_RENEW_BEFORE = 1 / 3
"""Share of its life that a certificate still has when it is renewed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What is no secret of it."""

    name: str
    kind: str
    service_address: str
    user_address: str
    begin_time: float
    expire_time: float
    hosts: list[str]


def _record_of(content: object) -> _Record:
    if not isinstance(content, dict):
        raise TypeError("it holds no object")
    fields = cast("dict[str, object]", content)
    hosts = fields["hosts"]
    if not isinstance(hosts, list):
        raise TypeError("hosts is no list")
    return _Record(
        name=str(fields["name"]),
        kind=str(fields["kind"]),
        service_address=str(fields["service_address"]),
        user_address=str(fields["user_address"]),
        begin_time=_seconds(fields["begin_time"]),
        expire_time=_seconds(fields["expire_time"]),
        hosts=[str(host) for host in cast("list[object]", hosts)],
    )


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise TypeError(f"{value!r} is no time")
    return float(value)


class Membership:
    """One service of a fleet elsewhere. Every method that reads or writes blocks on the disk.

    Args:
        folder: Where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def is_whole(self) -> bool:
        """Whether it has joined."""
        return (self.folder / _RECORD).exists()

    @property
    def name(self) -> str:
        """The service's name, without `services/`."""
        return self._record().name

    @property
    def kind(self) -> str:
        """`trainer`, `server` or `gateway`."""
        return self._record().kind

    @property
    def service_address(self) -> str:
        """The coordinator's listener for services of other machines."""
        return self._record().service_address

    @property
    def user_address(self) -> str:
        """The coordinator's listener for people."""
        return self._record().user_address

    @property
    def hosts(self) -> tuple[str, ...]:
        """Of a gateway: what it may be dialled by."""
        return tuple(self._record().hosts)

    def key_and_request(self) -> str:
        """Return a certificate request for the key, PEM; the key is made on first use."""
        from tunefleet_services.joining.keys import ensure_key, request_of

        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return request_of(ensure_key(self.folder / _KEY))

    def keep(
        self,
        *,
        name: str,
        kind: str,
        certificate: str,
        authority: str,
        service_address: str,
        user_address: str,
        user_authority: bytes,
        expire_time: float,
        hosts: Sequence[str],
    ) -> None:
        """Keep what a fleet has answered to a request."""
        write_whole_file(self.folder / _AUTHORITY, authority.encode())
        write_whole_file(self.folder / _USER_AUTHORITY, user_authority)
        record = _Record(
            name=name,
            kind=kind,
            service_address=service_address,
            user_address=user_address,
            begin_time=time.time(),
            expire_time=expire_time,
            hosts=list(hosts),
        )
        self._keep(certificate, record)

    def renew(self, certificate: str, *, expire_time: float) -> None:
        """Keep another certificate."""
        self._keep(certificate, replace(self._record(), begin_time=time.time(), expire_time=expire_time))

    def channel_tls(self) -> ChannelTls:
        """Return what secures a channel to the fleet, as it is now."""
        return ChannelTls(
            authority=self._read(_AUTHORITY), certificate=self._read(_CERTIFICATE), key=self._read(_KEY)
        )

    def listener_tls(self, *, asks: bool) -> ListenerTls:
        """Return what a listener of this service shows; with `asks`, callers show certificates too."""
        return ListenerTls(
            certificate=self._read(_CERTIFICATE),
            key=self._read(_KEY),
            client_authority=self._read(_AUTHORITY) if asks else b"",
        )

    @property
    def authority(self) -> bytes:
        """What the fleet's certificates are checked by, PEM."""
        return self._read(_AUTHORITY)

    @property
    def user_authority(self) -> bytes:
        """What the certificate of the listener for people is checked by, PEM."""
        return self._read(_USER_AUTHORITY)

    def seconds_to_renewal(self) -> float:
        """Return how long the certificate need not be renewed."""
        record = self._record()
        life = record.expire_time - record.begin_time
        return max(0.0, record.expire_time - life * _RENEW_BEFORE - time.time())

    def seconds_left(self) -> float:
        """Return how long the certificate is good; negative: for how long it has not been."""
        return self._record().expire_time - time.time()

    def require_time_left(self) -> None:
        """Refuse a certificate whose time is over. Raises CERTIFICATE_INVALID."""
        record = self._record()
        if self.seconds_left() <= 0:
            raise TunefleetError(
                Reason.CERTIFICATE_INVALID,
                f"The certificate of {record.name} has ended: this service was away for too long.",
                hint="Join again with a new token: tunefleet fleet tokens create",
                metadata={"folder": str(self.folder)},
            )

    def _keep(self, certificate: str, record: _Record) -> None:
        write_whole_file(self.folder / _CERTIFICATE, certificate.encode())
        write_whole_file(self.folder / _RECORD, json.dumps(asdict(record), indent=1).encode() + b"\n")

    def _record(self) -> _Record:
        try:
            return _record_of(json.loads((self.folder / _RECORD).read_text()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _spoilt(self.folder / _RECORD, error) from error

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise _spoilt(self.folder / name, error) from error


def memberships(state_folder: Path) -> list[Membership]:
    """Return what services of this machine have joined as, by name.

    Args:
        state_folder: State folder of this machine.
    """
    folders = sorted((state_folder / "members").glob("*/"))
    return [membership for path in folders if (membership := Membership(path)).is_whole]


def find_membership(state_folder: Path, kind: str, name: str | None) -> Membership:
    """Return the service of a kind that this machine has joined as.

    Args:
        state_folder: State folder of this machine.
        kind: `trainer`, `server` or `gateway`.
        name: Its name; None: the only one of the kind.

    Raises:
        TunefleetError: SERVICE_NOT_FOUND if there is none; FIELD_INVALID if there are several.
    """
    found = [
        membership
        for membership in memberships(state_folder)
        if membership.kind == kind and name in (None, membership.name)
    ]
    if not found:
        raise TunefleetError(
            Reason.SERVICE_NOT_FOUND,
            f"This machine has joined no fleet as a {kind}{f' named {name}' if name else ''}.",
            hint=f"On the coordinator's machine: tunefleet fleet tokens create --kind {kind}",
            metadata={"folder": str(state_folder / "members")},
        )
    if len(found) > 1:
        names = ", ".join(item.name for item in found)
        raise TunefleetError.field("name", f"must be given: this machine has joined as {names}")
    return found[0]


def kind_of(kind: str) -> ServiceKind.ValueType:
    """Return a kind as the API has it."""
    return ServiceKind.Value(f"SERVICE_KIND_{kind.upper()}")


def _spoilt(path: Path, error: Exception) -> TunefleetError:
    return TunefleetError.field(
        "member",
        f"{path} cannot be read: {error}",
        hint="Join again with a new token: tunefleet fleet tokens create",
    )
