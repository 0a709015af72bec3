"""Fill fields of a spec that were left out, and keep a record of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeGuard

from google.protobuf.message import Message

from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.catalog.family import Family

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
        message, name = self._parent(path)
        if _is_set(message, name):
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

    def _parent(self, path: str) -> tuple[Message, str]:
        message: Message = self._spec
        parents, name = _split(path)
        for parent in parents:
            message = getattr(message, parent)
        return message, name


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


def _is_set(message: Message, name: str) -> bool:
    """Return whether a field holds anything: presence where the field has it, else not empty."""
    if _has_presence(type(message), name):
        return message.HasField(name)
    return bool(getattr(message, name))


# Asked of every field of every spec, so the answers are kept: there are as many as fields.
@cache
def _has_presence(kind: type[Message], name: str) -> bool:
    return kind.DESCRIPTOR.fields_by_name[name].has_presence


@cache
def _split(path: str) -> tuple[tuple[str, ...], str]:
    """Return the names of the messages around a field, and its own."""
    *parents, name = path.split(".")
    return tuple(parents), name


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))
