"""A principal: who is behind a call, and in which projects they may act."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["Principal", "Role", "current_principal", "principal_of_call", "require_project"]


class Role(IntEnum):
    """What a principal may do; each role includes those below it, SERVICE stands apart."""

    SERVICE = 0
    VIEWER = 1
    USER = 2
    OPERATOR = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls.

    Attributes:
        name: Id of the token; `admin` and `service` for those of the state folder.
        role: What they may do.
        project: Where they may do it; `*` for all projects.
        expire_time: When the token ends by itself, seconds since 1970; None: never.
        service: The one service that it may speak for, `services/{service}`; empty: any of this machine.
        kind: The `ServiceKind` of that service; 0: any.
    """

    name: str
    role: Role
    project: str = "*"
    expire_time: float | None = None
    service: str = ""
    kind: int = 0

    def is_known_at(self, now: float) -> bool:
        """Return whether the token's time is not over."""
        return self.expire_time is None or now < self.expire_time

    def require_service(self, service: str) -> None:
        """Refuse a service of another machine that speaks for another. Raises PERMISSION_DENIED."""
        if self.service not in ("", service):
            raise TunefleetError(
                Reason.PERMISSION_DENIED,
                f"{self.service} may not speak for {service or 'nobody'}.",
                hint="Its certificate is for its own name: join again to have another.",
                metadata={"principal": self.name, "service": service},
            )


principal_of_call: ContextVar[Principal] = ContextVar("principal_of_call")


def current_principal() -> Principal:
    """Return who calls. Only inside a call: the interceptor has set it."""
    return principal_of_call.get()


def require_project(project: str) -> Principal:
    """Return the caller if they may act in a project. Raises PERMISSION_DENIED."""
    principal = current_principal()
    if principal.project not in ("*", project):
        raise TunefleetError(
            Reason.PERMISSION_DENIED,
            f"{principal.name} may not act in project '{project}'.",
            hint="Ask an admin for a token of that project.",
            metadata={"principal": principal.name, "project": project},
        )
    return principal
