"""One class of error per canonical code, for callers who want to write `except NotFound`.

Every failure is a TunefleetError with a reason, a hint, metadata and the wrong
fields. The class says the family of the reason and nothing more: which reasons
belong to a family is decided in `tunefleet_core.errors` alone, and the table here
is made of the classes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunefleet_core.errors import FieldViolation, Reason, TunefleetError, code_of, from_exception

__all__ = [
    "Aborted",
    "AlreadyExists",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "ERROR_CLASSES",
    "at_path",
    "failure",
    "typed",
]


class InvalidArgument(TunefleetError):
    """A field, a row or a name is wrong; `violations` names each. Correct it."""


class Unauthenticated(TunefleetError):
    """The token is missing or unknown. Use the one that `tunefleet up` wrote."""


class PermissionDenied(TunefleetError):
    """The token may not do this, or the Hub does not give out this model."""


class NotFound(TunefleetError):
    """Nothing of this name exists."""


class AlreadyExists(TunefleetError):
    """The id is taken. Pick another."""


class FailedPrecondition(TunefleetError):
    """The state of the fleet, of a resource or of a model does not allow it now."""


class Aborted(TunefleetError):
    """Somebody else was faster: read again, then decide again."""


class ResourceExhausted(TunefleetError):
    """No device, no memory or no disk is left for this."""


class OutOfRange(TunefleetError):
    """The history that was asked for is no longer kept."""


class Unimplemented(TunefleetError):
    """The backend or the other side cannot do this."""


class DeadlineExceeded(TunefleetError):
    """It took too long. Whether it happened is unknown: repeat with the same request id."""


class Unavailable(TunefleetError):
    """The other side does not answer, also not after the tries that were safe."""


class Internal(TunefleetError):
    """A fault of tunefleet. See the log of the process, and report it."""


ERROR_CLASSES: Mapping[str, type[TunefleetError]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "ABORTED": Aborted,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "OUT_OF_RANGE": OutOfRange,
    "UNIMPLEMENTED": Unimplemented,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unavailable,
    "INTERNAL": Internal,
}
"""The class of each canonical code."""


def failure(
    reason: Reason,
    message: str,
    *,
    hint: str = "",
    metadata: Mapping[str, str] | None = None,
    violations: Sequence[FieldViolation] = (),
) -> TunefleetError:
    """Return an error of the class that the reason's canonical code has.

    Example:
        >>> type(failure(Reason.JOB_NOT_FOUND, "No job 'x'.")).__name__
        'NotFound'
    """
    kind = ERROR_CLASSES[code_of(reason)]
    error = kind(reason, message, hint=hint, metadata=metadata, violations=violations)
    if hint:  # a traceback, which is all that many will see, shows notes
        error.add_note(f"Next step: {hint}")
    return error


def typed(error: TunefleetError) -> TunefleetError:
    """Return an error as one of the class of its code; itself if it is one already."""
    if type(error) is ERROR_CLASSES[error.code]:
        return error
    return failure(
        error.reason,
        error.message,
        hint=error.hint,
        metadata=error.metadata,
        violations=error.violations,
    )


@contextmanager
def at_path(path: Path) -> Generator[None]:
    """Raise what goes wrong with local files as a typed error that names the path.

    Raises:
        ResourceExhausted: DISK_FULL.
        InvalidArgument: FIELD_INVALID if a file cannot be read or written for another reason.
    """
    try:
        yield
    except TunefleetError as error:
        raise typed(error) from error.__cause__
    except OSError as error:
        if from_exception(error).reason is Reason.DISK_FULL:
            raise typed(from_exception(error)) from error
        place = str(error.filename or path)
        raise failure(
            Reason.FIELD_INVALID,
            f"{place} cannot be used: {error.strerror or error}.",
            hint="Name a path that can be read and written here.",
            metadata={"path": place},
        ) from error
