"""Errors, classed once: a reason, a canonical code, a message and a next step."""

from tunefleet_core.errors.classify import from_exception
from tunefleet_core.errors.error import FieldViolation, Reason, TunefleetError, code_of
from tunefleet_core.errors.status import (
    STATUS_METADATA_KEY,
    error_from_status,
    error_from_trailing_metadata,
    status_from_error,
)

__all__ = [
    "STATUS_METADATA_KEY",
    "FieldViolation",
    "Reason",
    "TunefleetError",
    "code_of",
    "error_from_status",
    "error_from_trailing_metadata",
    "from_exception",
    "status_from_error",
]
