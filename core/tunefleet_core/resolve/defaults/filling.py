"""Fill fields of a spec that were left out, and keep a record of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeGuard, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.catalog.family import Family
from tunefleet_core.spec.descriptors import descriptor_of, message_type

__all__ = ["Defaults", "shown"]


class Defaults:
    """Fills fields of a spec that were left out and keeps a record of each.

    Args:
        resolved: Holds the spec, changed in place, and takes the record.
        family: Whose defaults take precedence.
    """

    def __init__(self, resolved: ResolvedSpec, family: Family | None = None) -> None:
        self._spec = resolved.spec
        self._values = resolved.values
        self._family = family

    def fill(self, path: str, value: object, reason: str) -> None:
        """Set a dotted field unless it is set; a family's default for it takes precedence."""
        parents, name, has_presence = _place_of(path)
        message = cast("Message", self._spec)  # as any message: a name is a value here
        for parent in parents:
            message = getattr(message, parent)
        is_set = message.HasField(name) if has_presence else bool(getattr(message, name))
        if is_set:
            return
        if self._family is not None:
            value, reason = self._of_family(self._family).get(path, (value, reason))
        if _is_list(value):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
        self.note(path, value, reason)

    def note(self, path: str, value: object, reason: str) -> None:
        """Record a value that was decided."""
        self._values.add(field=path, value=shown(value), reason=reason)

    def _of_family(self, family: Family) -> Mapping[str, tuple[object, str]]:
        method = self._spec.train.method.WhichOneof("method") if self._spec.HasField("train") else None
        return {**family.defaults, **family.method_defaults.get(method or "", {})}


def shown(value: object) -> str:
    """Return a value as YAML would show it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if _is_list(value):
        return f"[{', '.join(shown(item) for item in value)}]"
    return str(value)


# Asked of every field of every spec, so the answers are kept: there are as many as fields.
@cache
def _place_of(path: str) -> tuple[tuple[str, ...], str, bool]:
    """Return the names of the messages around a field of a spec, its own, and whether it has presence."""
    *parents, name = path.split(".")
    around = descriptor_of(JobSpec())
    for parent in parents:
        around = cast("Descriptor", message_type(around.fields_by_name[parent]))
    return tuple(parents), name, around.fields_by_name[name].has_presence


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))
