"""Resource names: what a person types and what the API says.

The API names a job `projects/default/jobs/tickets-ab12`; a person types
`tickets-ab12`. Both, and `jobs/tickets-ab12`, are taken everywhere.
"""

from __future__ import annotations

from tunefleet_client.errors import typed
from tunefleet_core.errors import TunefleetError

__all__ = ["global_name", "resource_name", "short_name"]


def resource_name(name: str, *, collection: str, project: str) -> str:
    """Return the full resource name of a short, half or full one.

    Args:
        name: Such as `tickets-ab12`, `jobs/tickets-ab12` or the full name.
        collection: The plural noun, such as `jobs`.
        project: The project of names that do not say theirs.

    Raises:
        TunefleetError: FIELD_INVALID if the name belongs to another noun or has
            no form of the three.

    Example:
        >>> resource_name("tickets-ab12", collection="jobs", project="default")
        'projects/default/jobs/tickets-ab12'
    """
    match name.split("/"):
        case [last] if last:
            return f"projects/{project}/{collection}/{last}"
        case [noun, last] if noun == collection and last:
            return f"projects/{project}/{collection}/{last}"
        case ["projects", owner, noun, last] if owner and noun == collection and last:
            return name
        case _:
            raise typed(
                TunefleetError.field(
                    "name",
                    f"'{name}' is no name under {collection}/.",
                    hint=f"Give the name alone, or projects/{project}/{collection}/NAME.",
                )
            )


def global_name(name: str, *, collection: str) -> str:
    """Return the full name of what belongs to the whole fleet, such as a service.

    Args:
        name: Such as `trainer-1` or `services/trainer-1`.
        collection: The plural noun, such as `services`.

    Raises:
        InvalidArgument: FIELD_INVALID if it is a name of another noun.
    """
    match name.split("/"):
        case [last] if last:
            return f"{collection}/{last}"
        case [noun, last] if noun == collection and last:
            return name
        case _:
            raise typed(
                TunefleetError.field(
                    "name",
                    f"'{name}' is no name under {collection}/.",
                    hint=f"Give the name alone, or {collection}/NAME.",
                )
            )


def short_name(name: str) -> str:
    """Return the last part of a resource name, the one people read."""
    return name.rsplit("/", 1)[-1]
