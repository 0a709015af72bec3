"""Fill a proto message from a YAML tree, by its descriptor, and note every problem.

The descriptor is the only list of fields: there are no mirror classes to keep in step.
`google.protobuf.json_format` would take "2e-4" and "NaN" for a number, stops at the
first problem and knows no lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct

from tunefleet_core.spec.descriptors import descriptor_of, fields_of, is_map, is_repeated, message_type
from tunefleet_core.spec.nearest import field_hint
from tunefleet_core.spec.tree import Entry, Node, Scalar, Value

__all__ = ["Filling", "Problem", "fill"]

_INTS: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}
_EXACT_IN_DOUBLE = 2**53  # Struct keeps numbers as doubles


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong: the line, the path of the field, one clause, and perhaps a next step."""

    line: int
    field: str
    description: str
    hint: str = ""


class Filling:
    """What filling found: the problems, and the line of every path that was given."""

    def __init__(self, root: Descriptor) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self.lines: dict[str, int] = {}

    def note(self, line: int, field: str, description: str, *, hint: str = "") -> None:
        """Note a problem."""
        self.problems.append(Problem(line=line, field=field, description=description, hint=hint))

    def line_of(self, field: str) -> int:
        """Return the line of a path, or of the nearest part of it that was given."""
        while field and field not in self.lines:
            field = field[: max(field.rfind("."), field.rfind("["), 0)]
        return self.lines.get(field, 1)


def fill(message: Message, tree: Node) -> Filling:
    """Fill `message` from a tree. Wrong fields are noted and left unset."""
    filling = Filling(descriptor_of(message))
    _message(filling, message, tree, "")
    return filling


def _message(filling: Filling, message: Message, node: Node, path: str) -> None:
    descriptor = descriptor_of(message)
    known = {field.name: field for field in fields_of(descriptor)}
    if not isinstance(node.value, dict):
        what = "must be a mapping of fields"
        filling.note(node.line, path, f"{what}, {_got(node.value)}", hint=_fields_of(descriptor, path))
        return
    given: dict[str, tuple[str, int]] = {}
    for name, entry in node.value.items():
        field = known.get(name)
        inner = f"{path}.{name}" if path else name
        filling.lines[inner] = entry.line
        if field is None:
            description = f"is not a field{field_hint(name, descriptor, filling.root)}"
            filling.note(entry.line, inner, description, hint=_fields_of(descriptor, path))
            continue
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1:
            if oneof.name in given:
                other, line = given[oneof.name]
                filling.note(entry.line, inner, f"cannot be given beside '{other}' on line {line}")
                continue
            given[oneof.name] = (name, entry.line)
        _field(filling, message, field, entry, inner)


def _field(filling: Filling, message: Message, field: FieldDescriptor, entry: Entry, path: str) -> None:
    node = entry.node
    inner = message_type(field)
    if node.value is None:
        advice = "write {} for its defaults" if inner is not None else "give a value"
        filling.note(entry.line, path, f"is empty; {advice} or leave it out")
    elif is_map(field):
        _map(filling, message, field, node, path)
    elif inner is not None and inner.full_name == Struct.DESCRIPTOR.full_name:
        _struct(filling, cast("Struct", getattr(message, field.name)), node, path)
    elif is_repeated(field):
        _repeated(filling, message, field, node, path)
    elif inner is not None:
        child = cast("Message", getattr(message, field.name))
        child.SetInParent()
        _message(filling, child, node, path)
    else:
        value = _scalar(filling, field, node, path)
        if value is not None:
            setattr(message, field.name, value)


def _repeated(filling: Filling, message: Message, field: FieldDescriptor, node: Node, path: str) -> None:
    items = node.value
    if message_type(field) is not None:
        if not isinstance(items, list):
            hint = f"Write each one on a line that begins with '- ' under {path}."
            filling.note(node.line, path, f"must be a list, {_got(items)}", hint=hint)
            return
        for index, item in enumerate(items):
            filling.lines[f"{path}[{index}]"] = item.line
            child = cast("Message", getattr(message, field.name).add())
            _message(filling, child, item, f"{path}[{index}]")
        return
    # One value stands for a list of one: `targets: all-linear`.
    for index, item in enumerate(items if isinstance(items, list) else [node]):
        inner = f"{path}[{index}]" if isinstance(items, list) else path
        filling.lines[inner] = item.line
        value = _scalar(filling, field, item, inner)
        if value is not None:
            getattr(message, field.name).append(value)


def _map(filling: Filling, message: Message, field: FieldDescriptor, node: Node, path: str) -> None:
    entry_type = message_type(field)
    assert entry_type is not None  # a map is a repeated message of key and value
    if not isinstance(node.value, dict):
        filling.note(node.line, path, f"must be a mapping of names to values, {_got(node.value)}")
        return
    value_field = next(inner for inner in fields_of(entry_type) if inner.name == "value")
    for key, entry in node.value.items():
        inner = f"{path}.{key}"
        filling.lines[inner] = entry.line
        value = _scalar(filling, value_field, entry.node, inner)
        if value is not None:
            getattr(message, field.name)[key] = value


def _scalar(filling: Filling, field: FieldDescriptor, node: Node, path: str) -> Scalar:
    """Return the value for a scalar field, or None after noting why there is none."""
    value = node.value
    if field.type == FieldDescriptor.TYPE_STRING:
        if isinstance(value, str):
            return value
        quote = "; put it in quotes" if isinstance(value, bool | int | float) else ""
        filling.note(node.line, path, f"must be text, {_got(value)}{quote}")
        return None
    if field.type == FieldDescriptor.TYPE_BOOL:
        if isinstance(value, bool):
            return value
        filling.note(node.line, path, f"must be true or false, {_got(value)}")
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        if is_number:
            return float(cast("float", value))
        filling.note(node.line, path, f"must be a number, {_got(value)}{_unquote(value)}")
        return None
    return _int(filling, field, node, path)


def _int(filling: Filling, field: FieldDescriptor, node: Node, path: str) -> int | None:
    value = node.value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e3 means a thousand
    if not isinstance(value, int) or isinstance(value, bool):
        filling.note(node.line, path, f"must be a whole number, {_got(value)}{_unquote(value)}")
        return None
    low, high = _INTS[field.type]
    if not low <= value <= high:
        filling.note(node.line, path, f"must lie between {low} and {high}, got {value}")
        return None
    return value


def _struct(filling: Filling, struct: Struct, node: Node, path: str) -> None:
    if not isinstance(node.value, dict):
        filling.note(node.line, path, f"must be a mapping of options, {_got(node.value)}")
        return
    struct.SetInParent()
    for key, entry in node.value.items():
        inner = f"{path}.{key}"
        filling.lines[inner] = entry.line

        def put(value: Scalar, key: str = key) -> None:
            struct[key] = value

        _struct_value(
            filling,
            entry.node,
            inner,
            put=put,
            mapping=lambda key=key: struct.get_or_create_struct(key),
            sequence=lambda key=key: struct.get_or_create_list(key),
        )


def _struct_value(
    filling: Filling,
    node: Node,
    path: str,
    *,
    put: Callable[[Scalar], None],
    mapping: Callable[[], Struct],
    sequence: Callable[[], ListValue],
) -> None:
    value = node.value
    if isinstance(value, dict):
        _struct(filling, mapping(), node, path)
    elif isinstance(value, list):
        target = sequence()
        for index, item in enumerate(value):
            _struct_value(
                filling,
                item,
                f"{path}[{index}]",
                put=target.append,
                mapping=target.add_struct,
                sequence=target.add_list,
            )
    elif isinstance(value, int) and abs(value) > _EXACT_IN_DOUBLE:
        filling.note(node.line, path, f"is a whole number beyond 2^53, which would be rounded, got {value}")
    else:
        put(value)


def _got(value: Value) -> str:
    """Return `got ...`, naming a value briefly."""
    if value is None:
        return "got nothing"
    if isinstance(value, bool):
        return "got true" if value else "got false"
    if isinstance(value, int | float):
        return f"got the number {value}"
    if isinstance(value, str):
        shown = value if len(value) <= 40 else value[:37] + "..."
        return f"got the text {shown!r}"
    return "got a list" if isinstance(value, list) else "got a mapping"


def _unquote(value: Value) -> str:
    if not isinstance(value, str) or not _is_numeric(value):
        return ""
    return "; write it without quotes" if math.isfinite(float(value)) else "; it has to be finite"


def _is_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fields_of(descriptor: Descriptor, path: str) -> str:
    names = ", ".join(field.name for field in fields_of(descriptor))
    return f"Fields of {path or 'a job file'}: {names}."
