"""Questions about proto fields, answered alike by old and new protobuf runtimes."""

from __future__ import annotations

from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

__all__ = ["descriptor_of", "fields_of", "is_map", "is_repeated", "message_type"]


def descriptor_of(message: Message) -> Descriptor:
    """Return a message's descriptor; its C and Python classes are one type here."""
    return cast("Descriptor", message.DESCRIPTOR)


def fields_of(descriptor: Descriptor) -> list[FieldDescriptor]:
    """Return the fields in the order of the file."""
    return list(descriptor.fields)


def message_type(field: FieldDescriptor) -> Descriptor | None:
    """Return the type of a message field, None for a scalar."""
    return field.message_type


def is_map(field: FieldDescriptor) -> bool:
    """Return whether a field is a `map<...>`."""
    inner = message_type(field)
    return inner is not None and bool(inner.GetOptions().map_entry)


def is_repeated(field: FieldDescriptor) -> bool:
    """Return whether a field holds several values; a map does too."""
    known = cast("bool | None", getattr(field, "is_repeated", None))
    if known is not None:
        return known
    # protobuf 5 has only `label`, which newer runtimes warn about and their stubs leave out
    return cast("int", getattr(field, "label")) == 3  # noqa: B009 - LABEL_REPEATED
