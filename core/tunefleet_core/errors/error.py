"""The one exception type of tunefleet and the table of its reasons.

The reasons are those of `tunefleet/errors/v1/reasons.proto`; the canonical code
of a reason is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["FieldViolation", "Reason", "TunefleetError", "code_of"]


class Reason(StrEnum):
    """Why something failed; the same words as on the wire."""

    FIELD_INVALID = "FIELD_INVALID"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    TOKEN_INVALID = "TOKEN_INVALID"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    JOB_EXISTS = "JOB_EXISTS"
    BACKEND_NOT_INSTALLED = "BACKEND_NOT_INSTALLED"
    CONTRACT_INCOMPATIBLE = "CONTRACT_INCOMPATIBLE"
    CAPABILITY_UNSUPPORTED = "CAPABILITY_UNSUPPORTED"
    STATE_CONFLICT = "STATE_CONFLICT"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    INSUFFICIENT_ACCELERATORS = "INSUFFICIENT_ACCELERATORS"
    WORKER_LOST = "WORKER_LOST"
    FENCED = "FENCED"
    SESSION_SUPERSEDED = "SESSION_SUPERSEDED"
    HISTORY_COMPACTED = "HISTORY_COMPACTED"
    DISK_FULL = "DISK_FULL"
    DATA_INVALID = "DATA_INVALID"
    NO_TRAINED_TOKEN = "NO_TRAINED_TOKEN"
    BASE_INVALID = "BASE_INVALID"
    TEMPLATE_MISMATCH = "TEMPLATE_MISMATCH"
    NUMBERS_MISMATCH = "NUMBERS_MISMATCH"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    DEPLOYMENT_NOT_FOUND = "DEPLOYMENT_NOT_FOUND"
    DEPLOYMENT_EXISTS = "DEPLOYMENT_EXISTS"
    MANIFEST_NOT_FOUND = "MANIFEST_NOT_FOUND"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"
    STATE_FOLDER_HELD = "STATE_FOLDER_HELD"
    TIME_LIMIT = "TIME_LIMIT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BACKEND_FAILED = "BACKEND_FAILED"
    DATASET_NOT_FOUND = "DATASET_NOT_FOUND"
    DATASET_EXISTS = "DATASET_EXISTS"
    BLOB_NOT_FOUND = "BLOB_NOT_FOUND"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    UPLOAD_MOVED = "UPLOAD_MOVED"
    SERVICE_NOT_FOUND = "SERVICE_NOT_FOUND"
    TOKEN_EXISTS = "TOKEN_EXISTS"
    TOKEN_NOT_FOUND = "TOKEN_NOT_FOUND"
    HUB_UNREACHABLE = "HUB_UNREACHABLE"
    HUB_ACCESS_DENIED = "HUB_ACCESS_DENIED"
    STATE_TOO_NEW = "STATE_TOO_NEW"
    TRAINING_DIVERGED = "TRAINING_DIVERGED"
    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    SERVICE_EXISTS = "SERVICE_EXISTS"


_CODES: Mapping[Reason, str] = {
    Reason.FIELD_INVALID: "INVALID_ARGUMENT",
    Reason.REQUEST_ID_REUSED: "INVALID_ARGUMENT",
    Reason.DATA_INVALID: "INVALID_ARGUMENT",
    Reason.DIGEST_MISMATCH: "INVALID_ARGUMENT",
    Reason.TOKEN_INVALID: "UNAUTHENTICATED",
    Reason.CERTIFICATE_INVALID: "UNAUTHENTICATED",
    Reason.PERMISSION_DENIED: "PERMISSION_DENIED",
    Reason.HUB_ACCESS_DENIED: "PERMISSION_DENIED",
    Reason.JOB_NOT_FOUND: "NOT_FOUND",
    Reason.MODEL_NOT_FOUND: "NOT_FOUND",
    Reason.DEPLOYMENT_NOT_FOUND: "NOT_FOUND",
    Reason.MANIFEST_NOT_FOUND: "NOT_FOUND",
    Reason.DATASET_NOT_FOUND: "NOT_FOUND",
    Reason.BLOB_NOT_FOUND: "NOT_FOUND",
    Reason.SERVICE_NOT_FOUND: "NOT_FOUND",
    Reason.TOKEN_NOT_FOUND: "NOT_FOUND",
    Reason.JOB_EXISTS: "ALREADY_EXISTS",
    Reason.DEPLOYMENT_EXISTS: "ALREADY_EXISTS",
    Reason.DATASET_EXISTS: "ALREADY_EXISTS",
    Reason.TOKEN_EXISTS: "ALREADY_EXISTS",
    Reason.SERVICE_EXISTS: "ALREADY_EXISTS",
    Reason.BACKEND_NOT_INSTALLED: "FAILED_PRECONDITION",
    Reason.CONTRACT_INCOMPATIBLE: "FAILED_PRECONDITION",
    Reason.STATE_CONFLICT: "FAILED_PRECONDITION",
    Reason.NO_TRAINED_TOKEN: "FAILED_PRECONDITION",
    Reason.BASE_INVALID: "FAILED_PRECONDITION",
    Reason.TEMPLATE_MISMATCH: "FAILED_PRECONDITION",
    Reason.NUMBERS_MISMATCH: "FAILED_PRECONDITION",
    Reason.STATE_FOLDER_HELD: "FAILED_PRECONDITION",
    Reason.BACKEND_FAILED: "FAILED_PRECONDITION",
    Reason.STATE_TOO_NEW: "FAILED_PRECONDITION",
    Reason.TRAINING_DIVERGED: "FAILED_PRECONDITION",
    Reason.CAPABILITY_UNSUPPORTED: "UNIMPLEMENTED",
    Reason.ETAG_MISMATCH: "ABORTED",
    Reason.FENCED: "ABORTED",
    Reason.SESSION_SUPERSEDED: "ABORTED",
    Reason.UPLOAD_MOVED: "ABORTED",
    Reason.INSUFFICIENT_ACCELERATORS: "RESOURCE_EXHAUSTED",
    Reason.DISK_FULL: "RESOURCE_EXHAUSTED",
    Reason.OUT_OF_MEMORY: "RESOURCE_EXHAUSTED",
    Reason.WORKER_LOST: "UNAVAILABLE",
    Reason.UNAVAILABLE: "UNAVAILABLE",
    Reason.HUB_UNREACHABLE: "UNAVAILABLE",
    Reason.HISTORY_COMPACTED: "OUT_OF_RANGE",
    Reason.TIME_LIMIT: "DEADLINE_EXCEEDED",
    Reason.INTERNAL: "INTERNAL",
}


def code_of(reason: Reason) -> str:
    """Return the canonical gRPC code of a reason, such as `NOT_FOUND`."""
    return _CODES[reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One wrong field: its path in the spec and what is wrong with it."""

    field: str
    description: str


class TunefleetError(Exception):
    """A failure that a caller can act on.

    Args:
        reason: Why, as an enum.
        message: One sentence of fact.
        hint: One imperative that says what to do, with a command where there is one.
        metadata: Every dynamic value of the message, for programs.
        violations: The wrong fields, for FIELD_INVALID and DATA_INVALID.

    Example:
        >>> error = TunefleetError(Reason.JOB_NOT_FOUND, "No job 'x'.", hint="tunefleet jobs list")
        >>> error.code
        'NOT_FOUND'
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        hint: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)

    @property
    def code(self) -> str:
        """The canonical gRPC code."""
        return code_of(self.reason)

    def __str__(self) -> str:
        return self.message

    @classmethod
    def field(cls, field: str, description: str, *, hint: str = "") -> TunefleetError:
        """Build the error for one wrong field of a request or a job file."""
        return cls(
            Reason.FIELD_INVALID,
            f"{field}: {description}",
            hint=hint or f"Correct '{field}' and send it again.",
            metadata={"field": field},
            violations=(FieldViolation(field=field, description=description),),
        )
